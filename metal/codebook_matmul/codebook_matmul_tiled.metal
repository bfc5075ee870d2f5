#include "codebook_matmul/tiled.h"
#include "common/instantiate.h"

#define CODEBOOK_MATMUL_TILED(name, T)                                      \
  GHOST_KERNEL("codebook_matmul_t_tiled_" name, codebook_matmul_t_tiled<T>) \
  GHOST_KERNEL("codebook_matmul_n_tiled_" name, codebook_matmul_n_tiled<T>)

CODEBOOK_MATMUL_TILED("float32", float)
CODEBOOK_MATMUL_TILED("float16", half)
CODEBOOK_MATMUL_TILED("bfloat16", bfloat)
