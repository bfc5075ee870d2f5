#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// Over `rows` contiguous rows of `dim` elements; the first output may be the first input.
template <class T>
struct RmsNormKernels {
  // h = x + residual, y the norm of h; h may be x.
  void (*add_forward)(const T* x, const T* residual, const float* weight, float eps, T* h, T* y, int64_t rows,
                      int64_t dim);
  void (*forward)(const T* x, const float* weight, float eps, T* y, int64_t rows, int64_t dim);
  // dx gets dh as well unless that is null. Adds the share of these rows to dweight (dim,).
  void (*backward)(const T* dy, const T* x, const float* weight, const T* dh, float eps, T* dx,
                   float* dweight, int64_t rows, int64_t dim);
};

using RmsNormTable = PerDtype<RmsNormKernels>;
GHOST_DECLARE_KERNELS(RmsNormTable, rms_norm_table, rms_norm_kernels)

}  // namespace ghost
