#include "common/simd_loop.h"
#include "fact_recurrence/fact_recurrence_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

void decayed_sum(const float* x, const float* log_keep, const float* initial, int64_t seqlen, int64_t dim,
                 float* y) {
  const float* before = initial;
  for (int64_t t = 0; t < seqlen; ++t, before = y, x += dim, y += dim) {
    const F32 keep = splat(__builtin_expf(log_keep[t]));
    for_vectors(dim,
                [&](int64_t d, auto io) { io.put(y + d, fma(keep, io.get(before + d), io.get(x + d))); });
  }
}

// Backwards, with g[t] = dy[t] + keep[t+1] g[t+1]: dx = g and dlog_keep[t] = keep[t] g[t] . y[t-1]. What
// dinitial holds on the way is keep[t+1] g[t+1].
void decayed_sum_grad(const float* dy, const float* y, const float* log_keep, const float* initial,
                      int64_t seqlen, int64_t dim, float* dx, float* dlog_keep, float* dinitial) {
  for_vectors(dim, [&](int64_t d, auto io) { io.put(dinitial + d, splat(0.0f)); });
  for (int64_t t = seqlen - 1; t >= 0; --t) {
    const float keep = __builtin_expf(log_keep[t]);
    const float* before = t ? y + (t - 1) * dim : initial;
    F32 dot = splat(0.0f);
    for_vectors(dim, [&](int64_t d, auto io) {
      const F32 g = io.get(dy + t * dim + d) + io.get(dinitial + d);
      io.put(dx + t * dim + d, g);
      dot = fma(g, io.get(before + d), dot);
      io.put(dinitial + d, g * splat(keep));
    });
    dlog_keep[t] = keep * sum(dot);
  }
}

void log_odds(const float* logit, int64_t n, float* yes, float* no) {
  for_vectors(n, [&](int64_t i, auto io) {
    const F32 x = io.get(logit + i);
    io.put(yes + i, softplus(-x));
    io.put(no + i, softplus(x));
  });
}

void log_odds_grad(const float* logit, const float* at, const float* after, int64_t n, float* dlogit) {
  for_vectors(n, [&](int64_t i, auto io) {
    const F32 x = io.get(logit + i);
    io.put(dlogit + i, io.get(at + i) * sigmoid(-x) - io.get(after + i) * sigmoid(x));
  });
}

}  // namespace

extern const FactRecurrenceKernels fact_recurrence_table{decayed_sum, decayed_sum_grad, log_odds,
                                                         log_odds_grad};

}  // namespace ghost::GHOST_ISA
