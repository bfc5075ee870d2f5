#include "common/instantiate.h"
#include "skip_gather/skip_gather.h"

GHOST_KERNEL("skip_gather_fwd_float32", skip_gather_fwd<float>)
GHOST_KERNEL("skip_gather_fwd_float16", skip_gather_fwd<half>)
GHOST_KERNEL("skip_gather_fwd_bfloat16", skip_gather_fwd<bfloat>)

GHOST_KERNEL("skip_gather_scatter_float32", skip_gather_scatter<float>)
GHOST_KERNEL("skip_gather_scatter_float16", skip_gather_scatter<half>)
GHOST_KERNEL("skip_gather_scatter_bfloat16", skip_gather_scatter<bfloat>)

GHOST_KERNEL("skip_gather_scatter_bwd_float32", skip_gather_scatter_bwd<float>)
GHOST_KERNEL("skip_gather_scatter_bwd_float16", skip_gather_scatter_bwd<half>)
GHOST_KERNEL("skip_gather_scatter_bwd_bfloat16", skip_gather_scatter_bwd<bfloat>)
