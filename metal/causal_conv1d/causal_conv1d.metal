#include "causal_conv1d/backward.h"
#include "causal_conv1d/forward.h"
#include "common/instantiate.h"

GHOST_KERNEL("causal_conv1d_fwd_float32", causal_conv1d_fwd<float>)
GHOST_KERNEL("causal_conv1d_fwd_float16", causal_conv1d_fwd<half>)
GHOST_KERNEL("causal_conv1d_fwd_bfloat16", causal_conv1d_fwd<bfloat>)

GHOST_KERNEL("causal_conv1d_bwd_float32", causal_conv1d_bwd<float>)
GHOST_KERNEL("causal_conv1d_bwd_float16", causal_conv1d_bwd<half>)
GHOST_KERNEL("causal_conv1d_bwd_bfloat16", causal_conv1d_bwd<bfloat>)
