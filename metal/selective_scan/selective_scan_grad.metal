#include "common/instantiate.h"
#include "selective_scan/backward.h"
#include "selective_scan/sum.h"

GHOST_KERNEL("selective_scan_bwd_float32", selective_scan_bwd<float>)
GHOST_KERNEL("selective_scan_bwd_float16", selective_scan_bwd<half>)
GHOST_KERNEL("selective_scan_bwd_bfloat16", selective_scan_bwd<bfloat>)
