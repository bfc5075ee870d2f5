#include "codebook_matmul/gemv_n.h"
#include "codebook_matmul/gemv_t.h"
#include "common/instantiate.h"

#define CODEBOOK_MATMUL_GEMV(name, T)                                           \
  GHOST_KERNEL("codebook_matmul_t_gemv_m1_" name, codebook_matmul_t_gemv<T, 1>) \
  GHOST_KERNEL("codebook_matmul_t_gemv_m2_" name, codebook_matmul_t_gemv<T, 2>) \
  GHOST_KERNEL("codebook_matmul_t_gemv_m4_" name, codebook_matmul_t_gemv<T, 4>) \
  GHOST_KERNEL("codebook_matmul_n_gemv_m1_" name, codebook_matmul_n_gemv<T, 1>) \
  GHOST_KERNEL("codebook_matmul_n_gemv_m2_" name, codebook_matmul_n_gemv<T, 2>) \
  GHOST_KERNEL("codebook_matmul_n_gemv_m4_" name, codebook_matmul_n_gemv<T, 4>) \
  GHOST_KERNEL("codebook_matmul_n_sum_" name, codebook_matmul_n_sum<T>)

CODEBOOK_MATMUL_GEMV("float32", float)
CODEBOOK_MATMUL_GEMV("float16", half)
CODEBOOK_MATMUL_GEMV("bfloat16", bfloat)
