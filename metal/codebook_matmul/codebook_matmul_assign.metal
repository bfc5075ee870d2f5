#include "codebook_matmul/codebook_matmul_assign.h"
#include "common/instantiate.h"

GHOST_KERNEL("codebook_dequantize_float32", codebook_dequantize<float>)
GHOST_KERNEL("codebook_dequantize_float16", codebook_dequantize<half>)
GHOST_KERNEL("codebook_dequantize_bfloat16", codebook_dequantize<bfloat>)
GHOST_KERNEL("bucket_sum_row_float32", bucket_sum<false>)
GHOST_KERNEL("bucket_sum_group_float32", bucket_sum<true>)
