#include "common/simd_loop.h"
#include "tanh/tanh_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

// Relative error about 1e-7: an odd polynomial (that of Cephes) where the exponential would cancel.
GHOST_INLINE F32 tanh(F32 x) {
  const F32 z = x * x;
  F32 p = splat(-5.70498872745e-3f);
  p = fma(p, z, splat(2.06390887954e-2f));
  p = fma(p, z, splat(-5.37397155531e-2f));
  p = fma(p, z, splat(1.33314422036e-1f));
  p = fma(p, z, splat(-3.33332819422e-1f));
  const F32 inner = fma(p * z, x, x);
  const F32 size = abs(x);
  const F32 outer = splat(1.0f) - splat(2.0f) / (splat(1.0f) + exp(size + size));
  return select_gt(size, splat(0.625f), select_gt(x, splat(0.0f), outer, -outer), inner);
}

template <class T>
void forward(const T* x, T* y, int64_t n) {
  for_vectors(n, [&](int64_t i, auto io) { io.put(y + i, tanh(io.get(x + i))); });
}

template <class T>
void backward(const T* dy, const T* x, T* dx, int64_t n) {
  for_vectors(n, [&](int64_t i, auto io) {
    const F32 y = tanh(io.get(x + i));
    io.put(dx + i, io.get(dy + i) * (splat(1.0f) - y * y));
  });
}

template <class T>
constexpr ElementwiseKernels<T> kernels{forward<T>, backward<T>};

}  // namespace

extern const ElementwiseTable tanh_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
