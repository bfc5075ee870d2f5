#pragma once

#include <cstdint>

#include "common/coded_matrix.h"
#include "common/half.h"
#include "common/isa.h"

namespace ghost {

// One factor of a product, as element (i, k): i an outer index that survives, k the summed ("depth") index.
struct GemmOperand {
  enum class Type { f32, f16, bf16, codes };
  Type type = Type::f32;
  const void* data = nullptr;
  int64_t outer = 0;         // how many i there are
  int64_t outer_stride = 0;  // in elements; this or depth_stride is 1
  int64_t depth_stride = 0;
  CodedMatrix coded = {};         // for Type::codes
  bool outer_is_columns = false;  // for Type::codes: i is the column and k the row of the coded matrix
  int64_t depth = 0;              // how many k there are; set by gemm
};

// c[i * ldc + j] = (or +=, when accumulating) sum_k A(i, k) * b[k * C + j] for i < rows, j < columns, where
// the kernel was made for R >= rows and C >= columns. A(i, k) is a[i * a_row + k * a_depth], and all R rows
// of it are read.
using GemmMicroKernel = void (*)(int64_t depth, const float* a, int64_t a_row, int64_t a_depth,
                                 const float* b, float* c, int64_t ldc, int rows, int columns,
                                 bool accumulate);

// panel[(k - k0) * stride + i] = element (outer0 + i, k), zero for i in [count, stride).
using GemmPack = void (*)(const GemmOperand&, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                          float* panel);

struct GemmKernels {
  int max_rows;                  // of a micro tile; a full one is two vectors wide
  int width;                     // floats in a vector
  const GemmMicroKernel* micro;  // [2 * (R - 1) + C / width - 1]
  GemmPack pack;
  // The same for factors rounded to bfloat16, where there are instructions for it, else null. A "float" of a
  // panel is a pair of neighbouring depths, the lower in the low half, and depths are counted in pairs.
  const GemmMicroKernel* micro_pairs;
  GemmPack pack_pairs;
  void (*to_f16)(const float* from, float16* to, int64_t n);
  void (*to_bf16)(const float* from, bfloat16* to, int64_t n);
  void (*from_f16)(const float16* from, float* to, int64_t n);
  void (*from_bf16)(const bfloat16* from, float* to, int64_t n);
};

GHOST_DECLARE_KERNELS(GemmKernels, gemm_table, gemm_kernels)

}  // namespace ghost
