#include "adamw/adamw_kernels.h"
#include "common/simd_loop.h"

namespace ghost::GHOST_ISA {
namespace {

void update(const AdamWFactors& f, const float* p, const float* g, const float* m, const float* v,
            float* new_p, float* new_m, float* new_v, int64_t n) {
  const F32 decay = splat(f.decay);
  const F32 scale = splat(f.scale);
  const F32 rate = splat(f.rate);
  const F32 root = splat(f.root);
  const F32 eps = splat(f.eps);
  const F32 beta1 = splat(f.beta1);
  const F32 beta2 = splat(f.beta2);
  const F32 rest1 = splat(1.0f - f.beta1);
  const F32 rest2 = splat(1.0f - f.beta2);
  for_vectors(n, [&](int64_t i, auto io) {
    const F32 gi = io.get(g + i) * scale;
    const F32 mi = fma(beta1, io.get(m + i), rest1 * gi);
    const F32 vi = fma(beta2, io.get(v + i), rest2 * gi * gi);
    io.put(new_m + i, mi);
    io.put(new_v + i, vi);
    io.put(new_p + i, decay * io.get(p + i) - rate * mi / fma(sqrt(vi), root, eps));
  });
}

float sum_squares(const float* x, int64_t n) {
  F32 a = splat(0.0f);
  F32 b = splat(0.0f);
  int64_t i = 0;
  for (; i + 2 * kWidth <= n; i += 2 * kWidth) {
    const F32 u = load(x + i);
    const F32 w = load(x + i + kWidth);
    a = fma(u, u, a);
    b = fma(w, w, b);
  }
  for_vectors(n - i, [&](int64_t j, auto io) {
    const F32 u = io.get(x + i + j);
    a = fma(u, u, a);
  });
  return sum(a + b);
}

}  // namespace

extern const AdamWKernels adamw_table{update, sum_squares};

}  // namespace ghost::GHOST_ISA
