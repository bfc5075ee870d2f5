#include "codebook_matmul/tiled.h"

#define CODEBOOK_MATMUL_TILED(name, T)                               \
  template [[host_name("codebook_matmul_t_tiled_" name)]] [[kernel]] \
  decltype(codebook_matmul_t_tiled<T>) codebook_matmul_t_tiled<T>;   \
  template [[host_name("codebook_matmul_n_tiled_" name)]] [[kernel]] \
  decltype(codebook_matmul_n_tiled<T>) codebook_matmul_n_tiled<T>;

CODEBOOK_MATMUL_TILED("float32", float)
CODEBOOK_MATMUL_TILED("float16", half)
CODEBOOK_MATMUL_TILED("bfloat16", bfloat)
