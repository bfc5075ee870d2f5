#include "common/instantiate.h"
#include "selective_scan/chunked.h"

GHOST_KERNEL("selective_scan_fwd_summary_float32", selective_scan_fwd_summary<float>)
GHOST_KERNEL("selective_scan_fwd_summary_float16", selective_scan_fwd_summary<half>)
GHOST_KERNEL("selective_scan_fwd_summary_bfloat16", selective_scan_fwd_summary<bfloat>)

GHOST_KERNEL("selective_scan_bwd_summary_float32", selective_scan_bwd_summary<float>)
GHOST_KERNEL("selective_scan_bwd_summary_float16", selective_scan_bwd_summary<half>)
GHOST_KERNEL("selective_scan_bwd_summary_bfloat16", selective_scan_bwd_summary<bfloat>)
