#include "codebook_matmul/mma_t.h"
#include "common/instantiate.h"

#define CODEBOOK_MATMUL_MMA(name, T)                                           \
  GHOST_KERNEL("codebook_matmul_t_mma_m8_" name, codebook_matmul_t_mma<T, 1>)  \
  GHOST_KERNEL("codebook_matmul_t_mma_m16_" name, codebook_matmul_t_mma<T, 2>) \
  GHOST_KERNEL("codebook_matmul_t_mma_m32_" name, codebook_matmul_t_mma<T, 4>)

CODEBOOK_MATMUL_MMA("float32", float)
CODEBOOK_MATMUL_MMA("float16", half)
CODEBOOK_MATMUL_MMA("bfloat16", bfloat)
