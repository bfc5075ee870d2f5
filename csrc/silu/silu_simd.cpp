#include "common/simd_loop.h"
#include "silu/silu_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

template <class T>
void forward(const T* x, T* y, int64_t n) {
  for_vectors(n, [&](int64_t i, auto io) { io.put(y + i, silu(io.get(x + i))); });
}

template <class T>
void backward(const T* dy, const T* x, T* dx, int64_t n) {
  for_vectors(n, [&](int64_t i, auto io) { io.put(dx + i, io.get(dy + i) * silu_gradient(io.get(x + i))); });
}

template <class T>
constexpr ElementwiseKernels<T> kernels{forward<T>, backward<T>};

}  // namespace

extern const ElementwiseTable silu_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
