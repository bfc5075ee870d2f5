#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

constexpr float kGeluScale = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;
constexpr float kGeluRange = 12.0f;  // beyond it the sigmoid is 0 or 1 to float32, and its slope 0

// Over n contiguous elements; the output may be the first input.
template <class T>
struct GeluKernels {
  void (*forward)(const T* x, T* y, int64_t n);
  void (*backward)(const T* dy, const T* x, T* dx, int64_t n);
};

using GeluTable = PerDtype<GeluKernels>;
GHOST_DECLARE_KERNELS(GeluTable, gelu_table, gelu_kernels)

}  // namespace ghost
