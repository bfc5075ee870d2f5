#include "causal_conv1d/forward.h"
#include "common/instantiate.h"

GHOST_KERNEL("causal_conv1d_fwd_float32", causal_conv1d_fwd<float>)
GHOST_KERNEL("causal_conv1d_fwd_float16", causal_conv1d_fwd<half>)
GHOST_KERNEL("causal_conv1d_fwd_bfloat16", causal_conv1d_fwd<bfloat>)
