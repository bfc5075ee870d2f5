#include "codebook_matmul/codebook_matmul_kernels.h"
#include "common/decode_simd.h"
#include "common/simd_transpose.h"

namespace ghost::GHOST_ISA {
namespace {

constexpr int kBlock = 16 * kWidth;  // codes in a vector of words
constexpr int64_t kDepth = 2048;     // of activations that stay in the first-level cache, for four rows
constexpr int64_t kRowsTogether =
    1024;  // weight rows summed into one register before it is added to the result

#if defined(__AVX512F__)
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif

// prepared[16-code position j][lane i] = x[16 i + j] in every block.
void prepare(const float* x, int64_t columns, float* prepared) {
  for (int64_t k = 0; k < columns; k += kBlock) {
    for (int j0 = 0; j0 < 16; j0 += kWidth) {
      F32 rows[kWidth];
      for (int i = 0; i < kWidth; ++i) {
        const int64_t from = k + 16 * i + j0;
        rows[i] = from < columns ? load(x + from) : splat(0.0f);
      }
      transpose(rows);
      for (int j = 0; j < kWidth; ++j) store(prepared + k + (j0 + j) * kWidth, rows[j]);
    }
  }
}

GHOST_INLINE Words load_words(const uint32_t* p) { return words_of(load(reinterpret_cast<const float*>(p))); }
GHOST_INLINE Words load_words_n(const uint32_t* p, int n) {
  return words_of(load_n(reinterpret_cast<const float*>(p), n));
}

// sums += a block of R weight rows times M rows of activations. Two accumulators a pair where there are few,
// because each addition waits for the one before.
template <Tables kind, int R, int M, int A>
GHOST_INLINE void dot_block(Words (&words)[R], const Levels<kind> (&levels)[R], const float* x,
                            int64_t stride, F32 (&sums)[R][M][A], int lanes) {
#pragma GCC unroll 16
  for (int j = 0; j < 16; ++j) {
    F32 v[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      v[r] = levels[r].look(shift_codes(words[r], j));
      // Padding decodes to level 0, which may be infinite.
      if (lanes < kWidth) v[r] = keep_first(v[r], lanes);
    }
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const F32 xm = load(x + m * stride + j * kWidth);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[r][m][j % A] = fma(v[r], xm, sums[r][m][j % A]);
    }
  }
}

template <Tables kind, int R, int M>
void dot_tile(const CodedMatrix& w, const float* x, int64_t stride, int64_t row, int64_t k0, int64_t k1,
              float* y, int64_t ldy) {
  constexpr int A = R * M < 8 ? 2 : 1;
  F32 sums[R][M][A];
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 2
      for (int a = 0; a < A; ++a) sums[r][m][a] = splat(0.0f);
    }
  }
  const uint32_t* codes = w.codes + row * w.words();
  const float* codebook = w.codebook + row * w.row_stride;
  Levels<kind> levels[R];
  Words words[R];
  if constexpr (kind == Tables::uniform) {
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) levels[r].read(codebook + r * w.row_stride, 0, w);
  }
  const auto read_levels = [&](int64_t k) {
    if constexpr (kind != Tables::uniform) {
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) levels[r].read(codebook + r * w.row_stride, k, w);
    }
  };
  int64_t k = k0;
#pragma GCC unroll 1
  for (; k + kBlock <= k1; k += kBlock) {
    read_levels(k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) words[r] = load_words(codes + r * w.words() + k / 16);
    dot_block<kind, R, M, A>(words, levels, x + k, stride, sums, kWidth);
  }
  if (k < k1) {
    const int lanes = static_cast<int>((k1 - k) / 16);
    read_levels(k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) words[r] = load_words_n(codes + r * w.words() + k / 16, lanes);
    dot_block<kind, R, M, A>(words, levels, x + k, stride, sums, lanes);
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
    F32 totals[R];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) totals[r] = A == 2 ? sums[r][m][0] + sums[r][m][A - 1] : sums[r][m][0];
    float each[R];
    if constexpr (R % 4 == 0) {
#pragma GCC unroll 2
      for (int r = 0; r < R; r += 4) sum_four(totals + r, each + r);
    } else {
#pragma GCC unroll 2
      for (int r = 0; r < R; ++r) each[r] = sum(totals[r]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) y[m * ldy + r] = k0 > 0 ? y[m * ldy + r] + each[r] : each[r];
  }
}

template <Tables kind, int M>
void dot_rows(const CodedMatrix& w, const float* x, int64_t stride, int64_t n0, int64_t n1, int64_t k0,
              int64_t k1, float* y, int64_t ldy) {
  constexpr int R = M <= 2 || kRegisters == 32 ? 4 : 2;
  int64_t n = n0;
  // One row of x: eight rows of the weight keep eight sums going and as many streams of codes from memory.
  if constexpr (M == 1 && kRegisters == 32) {
    for (; n + 8 <= n1; n += 8) dot_tile<kind, 8, M>(w, x, stride, n, k0, k1, y + n, ldy);
  }
  for (; n + R <= n1; n += R) dot_tile<kind, R, M>(w, x, stride, n, k0, k1, y + n, ldy);
  for (; n < n1; ++n) dot_tile<kind, 1, M>(w, x, stride, n, k0, k1, y + n, ldy);
}

void dot(const CodedMatrix& w, const PreparedRows& rows, int64_t n0, int64_t n1, float* y, int64_t ldy) {
  const float* x = static_cast<const float*>(rows.data);
  const int64_t stride = rows.stride;
  with_tables(w, [&]<Tables kind>() {
    for (int64_t k0 = 0; k0 < w.columns; k0 += kDepth) {
      const int64_t k1 = min_of(k0 + kDepth, w.columns);
      int64_t m = 0;
      for (; m + 4 <= rows.count; m += 4)
        dot_rows<kind, 4>(w, x + m * stride, stride, n0, n1, k0, k1, y + m * ldy, ldy);
      const int64_t left = rows.count - m;
      if (left == 3) dot_rows<kind, 3>(w, x + m * stride, stride, n0, n1, k0, k1, y + m * ldy, ldy);
      if (left == 2) dot_rows<kind, 2>(w, x + m * stride, stride, n0, n1, k0, k1, y + m * ldy, ldy);
      if (left == 1) dot_rows<kind, 1>(w, x + m * stride, stride, n0, n1, k0, k1, y + m * ldy, ldy);
    }
  });
}

// Code positions [j0, j0 + J) of one block for M rows of activations, over weight rows [n0, n1).
template <Tables kind, int M, int J>
GHOST_INLINE void accumulate_part(const CodedMatrix& w, const float* x, int64_t block, int lanes, int j0,
                                  int64_t n0, int64_t n1, float* sums) {
  F32 total[M][J];
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) total[m][j] = splat(0.0f);
  }
  const uint32_t* codes = w.codes + block * kWidth;
#pragma GCC unroll 1
  for (int64_t n = n0; n < n1; ++n) {
    Levels<kind> levels;
    levels.read(w.codebook + n * w.row_stride, block * kBlock, w);
    const uint32_t* from = codes + n * w.words();
    Words words = lanes == kWidth ? load_words(from) : load_words_n(from, lanes);
    words = shift_codes(words, j0);
    F32 xn[M];
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) xn[m] = splat(x[m * w.rows + n]);
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) {
      const F32 v = levels.look(shift_codes(words, j));
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) total[m][j] = fma(v, xn[m], total[m][j]);
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 16
    for (int j = 0; j < J; ++j) {
      float* to = sums + (m * 16 + j0 + j) * kWidth;
      store(to, load(to) + total[m][j]);
    }
  }
}

template <Tables kind, int M>
void accumulate_rows(const CodedMatrix& w, const float* x, int64_t block, float* y, int64_t ldy) {
  constexpr int J = (kRegisters == 32 ? 16 : 8) / M;
  const int64_t column = block * kBlock;
  const int lanes = static_cast<int>(min_of<int64_t>(kBlock, w.columns - column) / 16);
  float sums[M * kBlock] = {};
  for (int64_t n = 0; n < w.rows; n += kRowsTogether) {
    const int64_t end = min_of(n + kRowsTogether, w.rows);
    for (int j0 = 0; j0 < 16; j0 += J) accumulate_part<kind, M, J>(w, x, block, lanes, j0, n, end, sums);
  }
  for (int m = 0; m < M; ++m) {
    for (int j0 = 0; j0 < 16; j0 += kWidth) {
      F32 rows[kWidth];
      for (int j = 0; j < kWidth; ++j) rows[j] = load(sums + (m * 16 + j0 + j) * kWidth);
      transpose(rows);
      for (int i = 0; i < kWidth; ++i) {
        if (i < lanes) store(y + m * ldy + column + 16 * i + j0, rows[i]);
      }
    }
  }
}

void accumulate(const CodedMatrix& w, const float* x, int count, int64_t block, float* y, int64_t ldy) {
  with_tables(w, [&]<Tables kind>() {
    int m = 0;
    for (; m + 4 <= count; m += 4) accumulate_rows<kind, 4>(w, x + m * w.rows, block, y + m * ldy, ldy);
    for (; m + 2 <= count; m += 2) accumulate_rows<kind, 2>(w, x + m * w.rows, block, y + m * ldy, ldy);
    for (; m < count; ++m) accumulate_rows<kind, 1>(w, x + m * w.rows, block, y + m * ldy, ldy);
  });
}

}  // namespace

extern const CodebookDotKernels codebook_dot_table{kBlock, prepare, dot, accumulate};

}  // namespace ghost::GHOST_ISA
