#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

template <class T>
struct EmbeddingKernels {
  // total = sum of rows[0..n) of dy (any, dim), in that order, in float32.
  void (*sum_rows)(const T* dy, const int32_t* rows, int64_t n, int64_t dim, T* total);
};

using EmbeddingTable = PerDtype<EmbeddingKernels>;
GHOST_DECLARE_KERNELS(EmbeddingTable, embedding_table, embedding_kernels)

}  // namespace ghost
