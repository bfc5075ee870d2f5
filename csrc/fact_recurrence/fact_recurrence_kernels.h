#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ghost {

// One sequence each.
struct FactRecurrenceKernels {
  // y[t] = exp(log_keep[t]) y[t-1] + x[t], rows of `dim`, y[-1] = initial.
  void (*decayed_sum)(const float* x, const float* log_keep, const float* initial, int64_t seqlen,
                      int64_t dim, float* y);
  void (*decayed_sum_grad)(const float* dy, const float* y, const float* log_keep, const float* initial,
                           int64_t seqlen, int64_t dim, float* dx, float* dlog_keep, float* dinitial);
  // yes[i] = -log sigmoid(logit[i]), no[i] = -log(1 - sigmoid(logit[i])).
  void (*log_odds)(const float* logit, int64_t n, float* yes, float* no);
  // dlogit[i] = at[i] (1 - sigmoid(logit[i])) - after[i] sigmoid(logit[i])
  void (*log_odds_grad)(const float* logit, const float* at, const float* after, int64_t n, float* dlogit);
};

GHOST_DECLARE_KERNELS(FactRecurrenceKernels, fact_recurrence_table, fact_recurrence_kernels)

}  // namespace ghost
