#include "codebook_matmul/codebook_matmul_assign.h"

#define CODEBOOK_DEQUANTIZE(name, T)                             \
  template [[host_name("codebook_dequantize_" name)]] [[kernel]] \
  decltype(codebook_dequantize<T>) codebook_dequantize<T>;

CODEBOOK_DEQUANTIZE("float32", float)
CODEBOOK_DEQUANTIZE("float16", half)
CODEBOOK_DEQUANTIZE("bfloat16", bfloat)

#define BUCKET_SUM(name, grouped)                       \
  template [[host_name("bucket_sum_" name)]] [[kernel]] \
  decltype(bucket_sum<grouped>) bucket_sum<grouped>;

BUCKET_SUM("row_float32", false)
BUCKET_SUM("group_float32", true)
