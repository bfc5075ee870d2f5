#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// y[m * ldy + n] = sum_k x[m * columns + k] weight[n * columns + k] for m < count and rows n0 <= n < n1.
template <class T>
struct DenseDotKernels {
  void (*dot)(const float* x, int count, const T* weight, int64_t columns, int64_t n0, int64_t n1, float* y,
              int64_t ldy);
};
using DenseDotTable = PerDtype<DenseDotKernels>;
GHOST_DECLARE_KERNELS(DenseDotTable, dense_dot_table, dense_dot_kernels)

}  // namespace ghost
