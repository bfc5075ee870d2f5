#include "common/simd_loop.h"
#include "gelu/gelu_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

GHOST_INLINE F32 bend(F32 x) { return max(splat(-kGeluRange), min(splat(kGeluRange), x)); }

GHOST_INLINE F32 sigmoid_of(F32 bent) {
  return sigmoid(splat(kGeluScale) * bent * fma(splat(kGeluCubic), bent * bent, splat(1.0f)));
}

template <class T>
void forward(const T* x, T* y, int64_t n) {
  for_vectors(n, [&](int64_t i, auto io) {
    const F32 v = io.get(x + i);
    io.put(y + i, max(splat(-kGeluRange), v) * sigmoid_of(bend(v)));
  });
}

template <class T>
void backward(const T* dy, const T* x, T* dx, int64_t n) {
  for_vectors(n, [&](int64_t i, auto io) {
    const F32 bent = bend(io.get(x + i));
    const F32 s = sigmoid_of(bent);
    const F32 slope = splat(kGeluScale) * fma(splat(3 * kGeluCubic), bent * bent, splat(1.0f));
    const F32 gradient = s * fma(bent * slope, splat(1.0f) - s, splat(1.0f));
    io.put(dx + i, io.get(dy + i) * gradient);
  });
}

template <class T>
constexpr ElementwiseKernels<T> kernels{forward<T>, backward<T>};

}  // namespace

extern const ElementwiseTable gelu_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
