#include "common/decode_simd.h"
#include "common/simd_loop.h"
#include "decode_step/decode_step_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

GHOST_INLINE Words load_words(const uint32_t* p, int lanes) {
  const float* bits = reinterpret_cast<const float*>(p);
  return words_of(lanes == kWidth ? load(bits) : load_n(bits, lanes));
}

// R vectors of rows side by side: additions of one wait for each other.
template <int R>
GHOST_INLINE void multiply_rows(const uint32_t* codes, F32 levels, int64_t words, int64_t rows,
                                const float* x, int lanes, float* y) {
  F32 sums[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) sums[r] = splat(0.0f);
#pragma GCC unroll 1
  for (int64_t w = 0; w < words; ++w) {
    Words code[R];
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) code[r] = load_words(codes + w * rows + r * kWidth, lanes);
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      const F32 xj = splat(x[16 * w + j]);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) sums[r] = fma(look_up(levels, shift_codes(code[r], j)), xj, sums[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) lanes == kWidth ? store(y + r * kWidth, sums[r]) : store_n(y, sums[r], lanes);
}

void multiply_columns(const uint32_t* codes, const float* codebook, int64_t words, int64_t rows,
                      const float* x, float* y) {
  const F32 levels = broadcast_levels(codebook);
  int64_t n = 0;
  for (; n + 4 * kWidth <= rows; n += 4 * kWidth)
    multiply_rows<4>(codes + n, levels, words, rows, x, kWidth, y + n);
  for (; n + kWidth <= rows; n += kWidth) multiply_rows<1>(codes + n, levels, words, rows, x, kWidth, y + n);
  if (n < rows) multiply_rows<1>(codes + n, levels, words, rows, x, static_cast<int>(rows - n), y + n);
}

template <int R>
GHOST_INLINE void score_rows(const float* query, const float* keys, int64_t pitch, int64_t head_dim,
                             float* dots) {
  F32 sums[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) sums[r] = splat(0.0f);
  for_vectors(head_dim, [&](int64_t d, auto io) {
    const F32 q = io.get(query + d);
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) sums[r] = fma(q, io.get(keys + r * pitch + d), sums[r]);
  });
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) dots[r] = sum(sums[r]);
}

void scores(const float* query, const float* keys, int64_t count, int64_t pitch, int64_t head_dim,
            float scale, float slope, const float* distance, float* scores) {
  int64_t j = 0;
  for (; j + 4 <= count; j += 4) score_rows<4>(query, keys + j * pitch, pitch, head_dim, scores + j);
  for (; j < count; ++j) score_rows<1>(query, keys + j * pitch, pitch, head_dim, scores + j);
  const F32 by = splat(scale);
  const F32 falls = splat(-slope);
  for_vectors(count, [&](int64_t i, auto io) {
    const F32 score = io.get(scores + i) * by;
    io.put(scores + i, distance ? fma(falls, io.get(distance + i), score) : score);
  });
}

// V vectors of columns stay in registers over all rows.
template <int V, class IO>
GHOST_INLINE void mix_columns(const float* weights, const float* values, int64_t count, int64_t pitch,
                              float* out, IO io) {
  F32 sums[V];
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) sums[v] = io.get(out + v * kWidth);
  for (int64_t j = 0; j < count; ++j) {
    const F32 w = splat(weights[j]);
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sums[v] = fma(w, io.get(values + j * pitch + v * kWidth), sums[v]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < V; ++v) io.put(out + v * kWidth, sums[v]);
}

void mix(const float* weights, const float* values, int64_t count, int64_t pitch, int64_t head_dim,
         float* out) {
  int64_t d = 0;
  for (; d + 4 * kWidth <= head_dim; d += 4 * kWidth)
    mix_columns<4>(weights, values + d, count, pitch, out + d, Full{});
  for (; d + kWidth <= head_dim; d += kWidth)
    mix_columns<1>(weights, values + d, count, pitch, out + d, Full{});
  if (d < head_dim)
    mix_columns<1>(weights, values + d, count, pitch, out + d, Tail{static_cast<int>(head_dim - d)});
}

void boundaries(const float* features, int64_t rows, int64_t channels, const float* decay, const float* rate,
                const float* weight, float bias, float* state, float* last, float* factors) {
  const F32 one = splat(1.0f);
  for (int64_t t = 0; t < rows; ++t) {
    F32 speed = splat(0.0f);
    for_vectors(channels, [&](int64_t c, auto io) {
      const F32 f = io.get(features + t * channels + c);
      const F32 bent = splat(2.0f) * sigmoid(f + f) - one;
      const F32 s = fma(io.get(decay + c), io.get(state + c), io.get(rate + c) * bent);
      speed = fma(abs(s - io.get(last + c)), io.get(weight + c), speed);
      io.put(state + c, s);
      io.put(last + c, s);
    });
    factors[t] = bias + sum(speed);
  }
  for_vectors(rows, [&](int64_t t, auto io) { io.put(factors + t, one + sigmoid(io.get(factors + t))); });
}

}  // namespace

extern const DecodeKernels decode_table{multiply_columns, scores, mix, boundaries};

}  // namespace ghost::GHOST_ISA
