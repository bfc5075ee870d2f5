#include "codebook_matmul/gemv_n.h"
#include "codebook_matmul/gemv_t.h"

#define CODEBOOK_MATMUL_GEMV(rows, MB, name, T)                                 \
  template [[host_name("codebook_matmul_t_gemv_" rows "_" name)]] [[kernel]]    \
  decltype(codebook_matmul_t_gemv<T, MB>) codebook_matmul_t_gemv<T, MB>;        \
  template [[host_name("codebook_matmul_n_gemv_" rows "_" name)]] [[kernel]]    \
  decltype(codebook_matmul_n_gemv<T, MB>) codebook_matmul_n_gemv<T, MB>;

#define CODEBOOK_MATMUL_GEMV_ALL(name, T)                          \
  CODEBOOK_MATMUL_GEMV("m1", 1, name, T)                           \
  CODEBOOK_MATMUL_GEMV("m2", 2, name, T)                           \
  CODEBOOK_MATMUL_GEMV("m4", 4, name, T)                           \
  template [[host_name("codebook_matmul_n_sum_" name)]] [[kernel]] \
  decltype(codebook_matmul_n_sum<T>) codebook_matmul_n_sum<T>;

CODEBOOK_MATMUL_GEMV_ALL("float32", float)
CODEBOOK_MATMUL_GEMV_ALL("float16", half)
CODEBOOK_MATMUL_GEMV_ALL("bfloat16", bfloat)
