#include "common/simd_loop.h"
#include "rms_norm/rms_norm_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

GHOST_INLINE float scale_of(float power, float eps, int64_t dim) {
  return 1.0f / __builtin_sqrtf(power / static_cast<float>(dim) + eps);
}

template <class T>
void forward(const T* x, const float* weight, float eps, T* y, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r, x += dim, y += dim) {
    F32 power = splat(0.0f);
    for_vectors(dim, [&](int64_t d, auto io) {
      const F32 v = io.get(x + d);
      power = fma(v, v, power);
    });
    const F32 scale = splat(scale_of(sum(power), eps, dim));
    for_vectors(dim, [&](int64_t d, auto io) { io.put(y + d, io.get(x + d) * scale * io.get(weight + d)); });
  }
}

template <class T>
void add_forward(const T* x, const T* residual, const float* weight, float eps, T* h, T* y, int64_t rows,
                 int64_t dim) {
  for (int64_t r = 0; r < rows; ++r, x += dim, residual += dim, h += dim, y += dim) {
    for_vectors(dim, [&](int64_t d, auto io) { io.put(h + d, io.get(x + d) + io.get(residual + d)); });
    forward(h, weight, eps, y, 1, dim);
  }
}

// With r = 1 / sqrt(mean(x^2) + eps) and a = dy * weight: dx = r a - x r^3 sum(a x) / dim, dweight = dy x r.
template <bool Add, class T>
GHOST_INLINE void backward_rows(const T* dy, const T* x, const float* weight, const T* dh, float eps, T* dx,
                                float* dweight, int64_t rows, int64_t dim) {
  for (int64_t r = 0; r < rows; ++r, x += dim, dy += dim, dx += dim) {
    F32 power = splat(0.0f);
    F32 dot = splat(0.0f);
    for_vectors(dim, [&](int64_t d, auto io) {
      const F32 v = io.get(x + d);
      power = fma(v, v, power);
      dot = fma(io.get(dy + d) * io.get(weight + d), v, dot);
    });
    const float scale = scale_of(sum(power), eps, dim);
    const F32 along = splat(sum(dot) / static_cast<float>(dim) * scale * scale * scale);
    const F32 by = splat(scale);
    for_vectors(dim, [&](int64_t d, auto io) {
      const F32 v = io.get(x + d);
      const F32 g = io.get(dy + d) * by;
      io.put(dweight + d, fma(g, v, io.get(dweight + d)));
      F32 out = g * io.get(weight + d) - along * v;
      if constexpr (Add) out = out + io.get(dh + r * dim + d);
      io.put(dx + d, out);
    });
  }
}

template <class T>
void backward(const T* dy, const T* x, const float* weight, const T* dh, float eps, T* dx, float* dweight,
              int64_t rows, int64_t dim) {
  if (dh) {
    backward_rows<true>(dy, x, weight, dh, eps, dx, dweight, rows, dim);
  } else {
    backward_rows<false>(dy, x, weight, dh, eps, dx, dweight, rows, dim);
  }
}

template <class T>
constexpr RmsNormKernels<T> kernels{add_forward<T>, forward<T>, backward<T>};

}  // namespace

extern const RmsNormTable rms_norm_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
