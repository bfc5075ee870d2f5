#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// Over n contiguous elements; the output may be the first input.
template <class T>
struct SiluKernels {
  void (*forward)(const T* x, T* y, int64_t n);
  void (*backward)(const T* dy, const T* x, T* dx, int64_t n);
};

using SiluTable = PerDtype<SiluKernels>;
GHOST_DECLARE_KERNELS(SiluTable, silu_table, silu_kernels)

}  // namespace ghost
