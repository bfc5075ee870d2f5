// Loops of the inner kernels over contiguous elements. Included by *_simd.cpp files only, after
// common/simd.h.
#pragma once

#include "common/simd.h"

namespace ghost::GHOST_ISA {

// How a loop body reads and writes: whole vectors, or one vector of the `n` elements left over, whose other
// lanes read as zero and are not written.
struct Full {
  template <class T>
  __attribute__((always_inline)) F32 get(const T* p) const {
    return load(p);
  }
  template <class T>
  __attribute__((always_inline)) void put(T* p, F32 v) const {
    store(p, v);
  }
};
struct Tail {
  int n;
  template <class T>
  __attribute__((always_inline)) F32 get(const T* p) const {
    return load_n(p, n);
  }
  template <class T>
  __attribute__((always_inline)) void put(T* p, F32 v) const {
    store_n(p, v, n);
  }
};

// body(i, io) for vectors of elements from i on, i in [0, n).
template <class Body>
GHOST_INLINE void for_vectors(int64_t n, Body&& body) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) body(i, Full{});
  if (i < n) body(i, Tail{static_cast<int>(n - i)});
}

}  // namespace ghost::GHOST_ISA
