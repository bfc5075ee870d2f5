#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// A function of one value over n contiguous elements, and dy times its slope; the output may be the first
// input.
template <class T>
struct ElementwiseKernels {
  void (*forward)(const T* x, T* y, int64_t n);
  void (*backward)(const T* dy, const T* x, T* dx, int64_t n);
};

using ElementwiseTable = PerDtype<ElementwiseKernels>;

}  // namespace ghost
