#pragma once

#include "common/half.h"
#include "mlx/array.h"

namespace ghost {

// Calls fn.template operator()<T>() with the storage type of a float32, float16 or bfloat16 array.
template <class Fn>
void dispatch_dtype(mlx::core::Dtype dtype, Fn&& fn) {
  if (dtype == mlx::core::float32) {
    fn.template operator()<float>();
  } else if (dtype == mlx::core::float16) {
    fn.template operator()<float16>();
  } else {
    fn.template operator()<bfloat16>();
  }
}

// The data of a weak copy inside a dispatched task, as one of our storage types.
template <class T>
const T* in_ptr(const mlx::core::array& x) {
  return reinterpret_cast<const T*>(x.data<char>());
}
template <class T>
T* out_ptr(mlx::core::array& x) {
  return reinterpret_cast<T*>(x.data<char>());
}

// How many rows a (..., columns) operand has.
inline int64_t leading_size(const mlx::core::array& x) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < static_cast<int>(x.ndim()); ++i) rows *= x.shape(i);
  return rows;
}

}  // namespace ghost
