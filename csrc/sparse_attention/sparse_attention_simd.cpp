#include "common/simd_loop.h"
#include "sparse_attention/sparse_attention_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

constexpr float kNone = -3.0e38f;

GHOST_INLINE F32 lanes() {
  alignas(64) static constexpr float numbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return load(numbers);
}

// `inside` in lanes whose column, counted from c, lies in [begin, end), else `outside`.
GHOST_INLINE F32 within(int64_t c, int64_t begin, int64_t end, F32 inside, F32 outside) {
  if (c >= begin && c + kWidth <= end) return inside;
  const F32 at = lanes();
  const F32 late = select_gt(at, splat(static_cast<float>(begin - c) - 0.5f), inside, outside);
  return select_gt(splat(static_cast<float>(end - c) - 0.5f), at, late, outside);
}

GHOST_INLINE F32 biased(F32 score, int64_t c, const AttentionRow& row) {
  const F32 distance = lanes() + splat(static_cast<float>(c - row.end + 1));
  return fma(splat(row.slope), distance, score * splat(row.scale));
}

// Columns [from, to) are whole vectors.
void softmax(float* far, float* local, const AttentionRow& row, float* largest, float* total) {
  F32 top = splat(kNone);
  for (int64_t c = 0; c < row.far_padded; c += kWidth) {
    const F32 score = within(c, 0, row.far_count, load(far + c) * splat(row.scale), splat(kNone));
    store(far + c, score);
    top = max(top, score);
  }
  for (int64_t c = row.from; c < row.to; c += kWidth) {
    const F32 score = within(c, row.begin, row.end, biased(load(local + c), c, row), splat(kNone));
    store(local + c, score);
    top = max(top, score);
  }
  *largest = max_lane(top);
  const F32 shift = splat(*largest);
  F32 sums = splat(0.0f);
  for (int64_t c = 0; c < row.far_padded; c += kWidth) {
    const F32 p = within(c, 0, row.far_count, exp(load(far + c) - shift), splat(0.0f));
    store(far + c, p);
    sums = sums + p;
  }
  for (int64_t c = row.from; c < row.to; c += kWidth) {
    const F32 p = within(c, row.begin, row.end, exp(load(local + c) - shift), splat(0.0f));
    store(local + c, p);
    sums = sums + p;
  }
  *total = sum(sums);
  const F32 inverse = splat(1.0f / *total);
  for (int64_t c = 0; c < row.far_padded; c += kWidth) store(far + c, load(far + c) * inverse);
  for (int64_t c = row.from; c < row.to; c += kWidth) store(local + c, load(local + c) * inverse);
}

GHOST_INLINE void gradient_at(float* p_at, float* d_at, F32 score, F32 logsumexp, F32 dot, F32 scale,
                              int64_t c, int64_t begin, int64_t end) {
  const F32 p = within(c, begin, end, exp(score - logsumexp), splat(0.0f));
  store(p_at, p);
  store(d_at, p * (load(d_at) - dot) * scale);
}

void gradient(float* far, float* local, float* dfar, float* dlocal, const AttentionRow& row, float logsumexp,
              float dot) {
  const F32 scale = splat(row.scale);
  for (int64_t c = 0; c < row.far_padded; c += kWidth) {
    gradient_at(far + c, dfar + c, load(far + c) * scale, splat(logsumexp), splat(dot), scale, c, 0,
                row.far_count);
  }
  for (int64_t c = row.from; c < row.to; c += kWidth) {
    gradient_at(local + c, dlocal + c, biased(load(local + c), c, row), splat(logsumexp), splat(dot), scale,
                c, row.begin, row.end);
  }
}

float dot(const float* a, const float* b, int64_t n) {
  F32 total = splat(0.0f);
  for_vectors(n, [&](int64_t i, auto io) { total = fma(io.get(a + i), io.get(b + i), total); });
  return sum(total);
}

}  // namespace

extern const SparseAttentionKernels sparse_attention_table{softmax, gradient, dot};

}  // namespace ghost::GHOST_ISA
