#include <algorithm>
#include <vector>

#include "common/parallel.h"
#include "fact_recurrence/fact_recurrence.h"
#include "fact_recurrence/fact_recurrence_kernels.h"

namespace ghost {
namespace {

const float* floats(const mx::array& x) { return x.data<float>(); }
float* floats(mx::array& x) { return x.data<float>(); }

// Elements of one sequence of x (batch, ...).
int64_t each(const mx::array& x) { return x.shape(0) ? static_cast<int64_t>(x.size()) / x.shape(0) : 0; }

void began_ago_row(const float* logit, int64_t past, int64_t length, int64_t width, float* out) {
  const int64_t columns = past + length;
  std::vector<float> yes(static_cast<size_t>(columns));
  std::vector<float> no(static_cast<size_t>(columns));
  fact_recurrence_kernels().log_odds(logit, columns, yes.data(), no.data());
  for (int64_t t = 0; t < length; ++t, out += width) {
    float later = 0.0f;
    for (int64_t j = 0; j < width; ++j) {
      const auto at = static_cast<size_t>(past + t - j);
      out[j] = -later - yes[at];
      later += no[at];
    }
  }
}

void began_ago_grad_row(const float* logit, const float* dy, int64_t columns, int64_t length, int64_t width,
                        float* dlogit) {
  std::vector<float> at(static_cast<size_t>(columns));
  std::vector<float> after(static_cast<size_t>(columns));
  for (int64_t t = 0; t < length; ++t) {
    float later = 0.0f;
    for (int64_t j = width - 1; j >= 0; --j) {
      const auto i = static_cast<size_t>(columns - length + t - j);
      at[i] += dy[t * width + j];
      after[i] += later;
      later += dy[t * width + j];
    }
  }
  fact_recurrence_kernels().log_odds_grad(logit, at.data(), after.data(), columns, dlogit);
}

}  // namespace

void DecayedSum::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const auto kernel = fact_recurrence_kernels().decayed_sum;
    parallel_for(in[0].shape(0), [&](int64_t b) {
      kernel(floats(in[0]) + b * each(in[0]), floats(in[1]) + b * each(in[1]),
             floats(in[2]) + b * each(in[2]), in[0].shape(1), in[0].shape(2),
             floats(out[0]) + b * each(out[0]));
    });
  });
}

void DecayedSumGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const auto kernel = fact_recurrence_kernels().decayed_sum_grad;
    parallel_for(in[0].shape(0), [&](int64_t b) {
      kernel(floats(in[4]) + b * each(in[4]), floats(in[3]) + b * each(in[3]),
             floats(in[1]) + b * each(in[1]), floats(in[2]) + b * each(in[2]), in[0].shape(1), in[0].shape(2),
             floats(out[0]) + b * each(out[0]), floats(out[1]) + b * each(out[1]),
             floats(out[2]) + b * each(out[2]));
    });
  });
}

void BeganAgo::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [past = past_](const Arrays& in, Arrays& out) {
    parallel_for(in[0].shape(0), [&](int64_t b) {
      began_ago_row(floats(in[0]) + b * each(in[0]), past, out[0].shape(1), out[0].shape(2),
                    floats(out[0]) + b * each(out[0]));
    });
  });
}

void BeganAgoGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    parallel_for(in[0].shape(0), [&](int64_t b) {
      began_ago_grad_row(floats(in[0]) + b * each(in[0]), floats(in[1]) + b * each(in[1]), in[0].shape(1),
                         in[1].shape(1), in[1].shape(2), floats(out[0]) + b * each(out[0]));
    });
  });
}

void LastEvents::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const int64_t batch = in[0].shape(0);
    const int64_t seqlen = in[0].shape(1);
    const int64_t slots = in[3].shape(1);
    for (int64_t b = 0; b < batch; ++b) {
      const int32_t* rows = in[3].data<int32_t>() + b * slots;
      const float* logs = floats(in[4]) + b * slots;
      const float* ages = floats(in[5]) + b * slots;
      for (int64_t t = b * seqlen; t < (b + 1) * seqlen; ++t) {
        int32_t* to_row = out[0].data<int32_t>() + t * slots;
        float* to_log = floats(out[1]) + t * slots;
        float* to_age = floats(out[2]) + t * slots;
        const int32_t row = in[0].data<int32_t>()[t];
        const int64_t moved = row != 0 ? 1 : 0;
        if (moved) {
          to_row[0] = row;
          to_log[0] = floats(in[1])[t];
          to_age[0] = 0.0f;
        }
        for (int64_t i = moved; i < slots; ++i) {
          to_row[i] = rows[i - moved];
          to_log[i] = logs[i - moved] + floats(in[2])[t];
          to_age[i] = ages[i - moved] + 1.0f;
        }
        rows = to_row;
        logs = to_log;
        ages = to_age;
      }
    }
  });
}

void LastEventsGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const int64_t batch = in[0].shape(0);
    const int64_t seqlen = in[0].shape(1);
    const int64_t slots = in[1].shape(2);
    for (int64_t b = 0; b < batch; ++b) {
      // Of the slots as they are after byte t, going backwards.
      float* dlog = floats(out[2]) + b * slots;
      float* dage = floats(out[3]) + b * slots;
      std::fill(dlog, dlog + slots, 0.0f);
      std::fill(dage, dage + slots, 0.0f);
      for (int64_t t = (b + 1) * seqlen - 1; t >= b * seqlen; --t) {
        for (int64_t i = 0; i < slots; ++i) {
          dlog[i] += floats(in[1])[t * slots + i];
          dage[i] += floats(in[2])[t * slots + i];
        }
        const int64_t moved = in[0].data<int32_t>()[t] != 0 ? 1 : 0;
        floats(out[0])[t] = moved ? dlog[0] : 0.0f;
        if (moved) {
          std::copy(dlog + 1, dlog + slots, dlog);
          std::copy(dage + 1, dage + slots, dage);
          dlog[slots - 1] = dage[slots - 1] = 0.0f;
        }
        float dkeep = 0.0f;
        for (int64_t i = 0; i < slots; ++i) dkeep += dlog[i];
        floats(out[1])[t] = dkeep;
      }
    }
  });
}

}  // namespace ghost
