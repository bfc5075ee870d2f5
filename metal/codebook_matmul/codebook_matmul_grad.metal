#include "codebook_matmul/codebook_matmul_grad.h"

#define CODEBOOK_MATMUL_GRAD(name, T)                                  \
  template [[host_name("codebook_matmul_grad_tile_" name)]] [[kernel]] \
  decltype(codebook_matmul_grad_tile<T>) codebook_matmul_grad_tile<T>;

CODEBOOK_MATMUL_GRAD("float32", float)
CODEBOOK_MATMUL_GRAD("float16", half)
CODEBOOK_MATMUL_GRAD("bfloat16", bfloat)
