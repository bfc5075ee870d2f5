#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// Arithmetic on single gated rows of `dim` elements; rows without a gate are copied, which needs no kernel.
// Operands may be the same memory where the outputs say so.
template <class T>
struct SkipGatherKernels {
  // out = x + gate * (y - x); out may be x. Also difference = y - x unless null.
  void (*blend)(const T* x, const T* y, float gate, T* out, float* difference, int64_t dim);
  // dy = gate * dout, dx = (1 - gate) * dout; dx may be dout. Returns sum(dout * difference).
  float (*blend_grad)(const T* dout, const float* difference, float gate, T* dx, T* dy, int64_t dim);
};

using SkipGatherTable = PerDtype<SkipGatherKernels>;
GHOST_DECLARE_KERNELS(SkipGatherTable, skip_gather_table, skip_gather_kernels)

}  // namespace ghost
