#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// Products with a factor of few rows, the other one read in place.
template <class T>
struct DenseDotKernels {
  // y[m * ldy + n] = sum_k x[m * columns + k] weight[n * columns + k] for m < count and rows n0 <= n < n1.
  void (*dot)(const float* x, int count, const T* weight, int64_t columns, int64_t n0, int64_t n1, float* y,
              int64_t ldy);
  // y[m * columns + k] = sum_d x[m * depth + d] weight[d * columns + k] for m < count and k0 <= k < k1.
  void (*sum_rows)(const float* x, int64_t count, int64_t depth, const T* weight, int64_t columns, int64_t k0,
                   int64_t k1, float* y);
};
using DenseDotTable = PerDtype<DenseDotKernels>;
GHOST_DECLARE_KERNELS(DenseDotTable, dense_dot_table, dense_dot_kernels)

}  // namespace ghost
