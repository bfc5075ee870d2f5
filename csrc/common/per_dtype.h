#pragma once

#include <type_traits>

#include "common/half.h"

namespace ghost {

// One table of kernels for each element type of the operators.
template <template <class> class Kernels>
struct PerDtype {
  Kernels<float> f32;
  Kernels<float16> f16;
  Kernels<bfloat16> bf16;

  template <class T>
  const Kernels<T>& get() const {
    if constexpr (std::is_same_v<T, float>) {
      return f32;
    } else if constexpr (std::is_same_v<T, float16>) {
      return f16;
    } else {
      return bf16;
    }
  }
};

}  // namespace ghost
