#include "codebook_matmul/mma_t.h"

#define CODEBOOK_MATMUL_MMA(rows, MB, name, T)                              \
  template [[host_name("codebook_matmul_t_mma_" rows "_" name)]] [[kernel]] \
  decltype(codebook_matmul_t_mma<T, MB>) codebook_matmul_t_mma<T, MB>;

#define CODEBOOK_MATMUL_MMA_ALL(name, T) \
  CODEBOOK_MATMUL_MMA("m8", 1, name, T)  \
  CODEBOOK_MATMUL_MMA("m16", 2, name, T) \
  CODEBOOK_MATMUL_MMA("m32", 4, name, T)

CODEBOOK_MATMUL_MMA_ALL("float32", float)
CODEBOOK_MATMUL_MMA_ALL("float16", half)
CODEBOOK_MATMUL_MMA_ALL("bfloat16", bfloat)
