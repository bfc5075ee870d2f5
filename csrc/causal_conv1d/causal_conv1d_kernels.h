#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// One sequence as the kernels see it. Row j of the extended sequence [state; x] is state row j for j < width
// - 1. Rows are `dim` elements apart; weight and bias are float32, weight transposed so that channels are
// contiguous.
template <class T>
struct CausalConv1dRows {
  const T* x;
  const T* state;
  const float* weight;  // (width, dim)
  const float* bias;    // (dim,)
  int64_t seqlen;
  int64_t dim;
  int width;
  bool silu;
};

template <class T>
struct CausalConv1dKernels {
  // y rows [t0, t1).
  void (*forward)(const CausalConv1dRows<T>&, T* y, int64_t t0, int64_t t1);
  // dx rows [t0, t1).
  void (*input_grad)(const CausalConv1dRows<T>&, const T* dy, const T* dlast, T* dx, int64_t t0, int64_t t1);
  // All of dstate, (width - 1, dim).
  void (*state_grad)(const CausalConv1dRows<T>&, const T* dy, const T* dlast, T* dstate);
  // Adds the share of output rows [t0, t1) to partial sums (width + 1, dim): dweight, then dbias.
  void (*weight_grad)(const CausalConv1dRows<T>&, const T* dy, int64_t t0, int64_t t1, float* partial);
};

using CausalConv1dTable = PerDtype<CausalConv1dKernels>;
GHOST_DECLARE_KERNELS(CausalConv1dTable, causal_conv1d_table, causal_conv1d_kernels)

}  // namespace ghost
