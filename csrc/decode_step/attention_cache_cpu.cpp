#include "decode_step/step_state.h"

namespace ghost {
namespace {

// The last `stride` rows: of the window before, then new ones.
mx::array next_window(const mx::array& before, const float* rows, const std::vector<Span>& spans) {
  const int64_t stride = before.shape(1), dim = before.shape(2);
  mx::array window = make(before.shape());
  for (size_t b = 0; b < spans.size(); ++b) {
    const auto first = static_cast<int64_t>(b) * stride;
    const int64_t fresh = std::min(spans[b].length(), stride);
    const float* kept = floats(before) + (first + fresh) * dim;
    float* to = std::copy_n(kept, (stride - fresh) * dim, window.data<float>() + first * dim);
    std::copy_n(rows + (spans[b].end - fresh) * dim, fresh * dim, to);
  }
  return window;
}

// Rows stride - 1, 2 stride - 1, ... of every sequence, held before or among the new ones.
mx::array next_strided(const mx::array& held, int64_t capacity, int64_t stride, const int32_t* count,
                       const float* rows, const std::vector<Span>& spans) {
  const int64_t dim = held.shape(2), had = held.shape(1);
  mx::array strided = make({held.shape(0), static_cast<int>(capacity), held.shape(2)});
  for (size_t b = 0; b < spans.size(); ++b) {
    for (int64_t m = 0; m < capacity; ++m) {
      float* to = strided.data<float>() + (static_cast<int64_t>(b) * capacity + m) * dim;
      const int64_t t = m * stride + stride - 1 - count[b];
      if (t >= 0 && t < spans[b].length()) {
        std::copy_n(rows + (spans[b].begin + t) * dim, dim, to);
      } else if (m < had) {
        std::copy_n(floats(held) + (static_cast<int64_t>(b) * had + m) * dim, dim, to);
      } else {
        std::fill_n(to, dim, 0.0f);
      }
    }
  }
  return strided;
}

}  // namespace

mx::array settled_window(const mx::array& window, const mx::array& recent) {
  if (recent.shape(1) == 0) return window;
  return next_window(window, floats(recent), equal_spans(recent.shape(0), recent.shape(1)));
}

Arrays cache_after(const AttentionCache& cache, const KeysAndValues<mx::array>& windows,
                   const KeysAndValues<const float*>& rows, const std::vector<Span>& spans) {
  const int64_t stride = windows.keys.shape(1);
  const int32_t* before = cache.count.data<int32_t>();
  mx::array count = make(cache.count.shape(), mx::int32);
  int64_t capacity = cache.strided_k.shape(1);
  bool grows = false;
  for (size_t b = 0; b < spans.size(); ++b) {
    const int64_t after = before[b] + spans[b].length();
    count.data<int32_t>()[b] = static_cast<int32_t>(after);
    grows = grows || after / stride > before[b] / stride;
    capacity = std::max(capacity, after / stride);
  }
  const auto strided = [&](const mx::array& held, const float* from) {
    return grows ? next_strided(held, capacity, stride, before, from, spans) : held;
  };
  const mx::Shape none{cache.count.shape(0), 0, windows.keys.shape(2)};
  return {next_window(windows.keys, rows.keys, spans),
          next_window(windows.values, rows.values, spans),
          make(none),
          make(none),
          strided(cache.strided_k, rows.keys),
          strided(cache.strided_v, rows.values),
          count};
}

}  // namespace ghost
