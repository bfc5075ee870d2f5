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

}  // namespace ghost
