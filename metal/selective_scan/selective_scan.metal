#include "common/instantiate.h"
#include "selective_scan/forward.h"
#include "selective_scan/states.h"

GHOST_KERNEL("selective_scan_fwd_float32", selective_scan_fwd<float>)
GHOST_KERNEL("selective_scan_fwd_float16", selective_scan_fwd<half>)
GHOST_KERNEL("selective_scan_fwd_bfloat16", selective_scan_fwd<bfloat>)

GHOST_KERNEL("selective_scan_states_float32", selective_scan_states<float>)
GHOST_KERNEL("selective_scan_states_float16", selective_scan_states<half>)
GHOST_KERNEL("selective_scan_states_bfloat16", selective_scan_states<bfloat>)
