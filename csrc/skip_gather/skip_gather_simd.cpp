#include "common/simd.h"
#include "skip_gather/skip_gather_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

template <class T>
void blend(const T* x, const T* y, float gate, T* out, float* difference, int64_t dim) {
  const F32 g = splat(gate);
  int64_t d = 0;
  for (; d + kWidth <= dim; d += kWidth) {
    const F32 from = load(x + d);
    const F32 step = load(y + d) - from;
    store(out + d, fma(g, step, from));
    if (difference) store(difference + d, step);
  }
  if (d < dim) {
    const int n = static_cast<int>(dim - d);
    const F32 from = load_n(x + d, n);
    const F32 step = load_n(y + d, n) - from;
    store_n(out + d, fma(g, step, from), n);
    if (difference) store_n(difference + d, step, n);
  }
}

template <class T>
float blend_grad(const T* dout, const float* difference, float gate, T* dx, T* dy, int64_t dim) {
  const F32 g = splat(gate);
  const F32 keep = splat(1.0f - gate);
  F32 dot = splat(0.0f);
  int64_t d = 0;
  for (; d + kWidth <= dim; d += kWidth) {
    const F32 v = load(dout + d);
    dot = fma(v, load(difference + d), dot);
    store(dy + d, g * v);
    store(dx + d, keep * v);
  }
  if (d < dim) {
    const int n = static_cast<int>(dim - d);
    const F32 v = load_n(dout + d, n);
    dot = fma(v, load_n(difference + d, n), dot);
    store_n(dy + d, g * v, n);
    store_n(dx + d, keep * v, n);
  }
  return sum(dot);
}

template <class T>
constexpr SkipGatherKernels<T> kernels{blend<T>, blend_grad<T>};

}  // namespace

extern const SkipGatherTable skip_gather_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
