#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// One row of logits.
template <class T>
struct CrossEntropyKernels {
  // The largest logit, and sum(exp(logit - largest)).
  void (*sum_exp)(const T* logits, int64_t classes, float* largest, float* total);
  // dlogits = exp(logits - largest - logsum) * scale; dlogits may be logits.
  void (*softmax)(const T* logits, float largest, float logsum, float scale, T* dlogits, int64_t classes);
};

using CrossEntropyTable = PerDtype<CrossEntropyKernels>;
GHOST_DECLARE_KERNELS(CrossEntropyTable, cross_entropy_table, cross_entropy_kernels)

}  // namespace ghost
