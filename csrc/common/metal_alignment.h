#pragma once

#include <initializer_list>

#include "mlx/array.h"

namespace ghost {

// True where rows of `dim` elements can be read in packs of `elements`: every row of every operand begins at
// a multiple of a pack. A slice of a larger array may begin anywhere.
inline bool packs_fit(int dim, int elements, std::initializer_list<const mlx::core::array*> operands) {
  if (dim % elements != 0) return false;
  for (const auto* x : operands) {
    const auto pack = static_cast<int64_t>(x->itemsize()) * elements;
    if (x->offset() % pack != 0) return false;
  }
  return true;
}

inline bool begins_aligned(const mlx::core::array& x) { return x.offset() % 16 == 0; }

// Whether every row of so many elements can be read 16 bytes at a time.
inline bool reads_vectors(const mlx::core::array& x, int row) {
  return begins_aligned(x) && static_cast<size_t>(row) * x.itemsize() % 16 == 0;
}

}  // namespace ghost
