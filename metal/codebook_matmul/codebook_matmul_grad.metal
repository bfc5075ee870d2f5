#include "codebook_matmul/codebook_matmul_grad.h"
#include "common/instantiate.h"

GHOST_KERNEL("codebook_matmul_grad_tile_float32", codebook_matmul_grad_tile<float>)
GHOST_KERNEL("codebook_matmul_grad_tile_float16", codebook_matmul_grad_tile<half>)
GHOST_KERNEL("codebook_matmul_grad_tile_bfloat16", codebook_matmul_grad_tile<bfloat>)
