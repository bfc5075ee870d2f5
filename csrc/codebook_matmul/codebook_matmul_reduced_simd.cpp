#include "codebook_matmul/codebook_matmul_kernels.h"
#include "common/decode_simd.h"

namespace ghost::GHOST_ISA {
namespace {

#if defined(__AVX512VNNI__)

constexpr int kBlock = 256;

// The codebooks of up to four neighbouring rows, one in each 128-bit quarter.
GHOST_INLINE F32 four_codebooks(const float* codebook, int64_t row_stride, int rows) {
  return rows == 4 && row_stride == 4 ? load(codebook) : broadcast_levels(codebook);
}

#  if defined(__AVX512BF16__)

// bfloat16: four bits of a word name a pair of neighbouring codes, looked up in a table of 16 pairs; the
// activations are pairs too. Each block is 8 vectors of pairs.
void prepare_bfloat16(const float* x, int64_t columns, uint16_t* prepared) {
  for (int64_t k = 0; k < columns; k += kBlock) {
    uint32_t pairs[kBlock / 2] = {};
    for (int64_t i = 0; i < min_of<int64_t>(kBlock, columns - k); i += 16) {
      store(reinterpret_cast<bfloat16*>(pairs + i / 2), load(x + k + i));
    }
    for (int64_t j = 0; j < 8; ++j) {
      for (int64_t i = 0; i < 16; ++i) std::memcpy(prepared + k + 32 * j + 2 * i, pairs + 8 * i + j, 4);
    }
  }
}

struct Bfloat16 {
  using Sum = __m512;
  using Element = uint16_t;
  static constexpr int kSteps = 8;
  static constexpr int kMostRows = 8;
  __m512i table;

  template <int R>
  static void read(const float* codebook, int64_t row_stride, Bfloat16* modes) {
    const __m512i low = _mm512_setr_epi32(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m512i high = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m256i rounded =
        reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(four_codebooks(codebook, row_stride, R)));
    const __m512i levels = _mm512_cvtepu16_epi32(rounded);
#    pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512i row = _mm512_set1_epi32(4 * r);
      const __m512i upper = _mm512_permutexvar_epi32(_mm512_add_epi32(high, row), levels);
      const __m512i lower = _mm512_permutexvar_epi32(_mm512_add_epi32(low, row), levels);
      modes[r].table = _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16));
    }
  }
  __m512i look(__m512i words, int step) const {
    return _mm512_permutexvar_epi32(_mm512_srli_epi32(words, static_cast<unsigned>(4 * step)), table);
  }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum add(Sum a, Sum b) { return _mm512_add_ps(a, b); }
  static Sum multiply(Sum s, __m512i w, __m512i x) {
    return _mm512_dpbf16_ps(s, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
  }
  static float total(Sum s) { return _mm512_reduce_add_ps(s); }
  float finish(float total, const PreparedRows&, int64_t) const { return total; }
};

#  endif

// int8: with VBMI six bits of a byte name three codes; three tables of 64 bytes give the first, second and
// third, and a shift brings up the fourth. Without, four bits name two codes for two tables of 16 bytes.
// Levels are stored with 128 added, because the instruction takes one factor unsigned.
int32_t prepare_int8(const float* x, float step, int64_t columns, int8_t* prepared) {
  const F32 divisor = splat(step > 0.0f ? step : 1.0f);
  __m512i total = _mm512_setzero_si512();
  for (int64_t k = 0; k < columns; k += kBlock) {
    alignas(64) int8_t bytes[kBlock] = {};
    for (int64_t i = 0; i < min_of<int64_t>(kBlock, columns - k); i += 16) {
      const __m512i rounded = _mm512_cvtps_epi32(_mm512_div_ps(load(x + k + i), divisor));
      total = _mm512_add_epi32(total, rounded);
      _mm_store_si128(reinterpret_cast<__m128i*>(bytes + i), _mm512_cvtsepi32_epi8(rounded));
    }
    // Byte t of every word of bytes goes to plane t.
    for (int64_t q = 0; q < 4; ++q) {
      const __m512i quad = _mm512_load_si512(bytes + 64 * q);
      for (unsigned t = 0; t < 4; ++t) {
        const __m128i plane = _mm512_cvtepi32_epi8(_mm512_srli_epi32(quad, 8 * t));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(prepared + k + 64 * t + 16 * q), plane);
      }
    }
  }
  return sum(total);
}

// Entry i of table t: the byte that holds level `code t of index i`, levels being 4 bytes apart. Of the first
// two tables all quarters are the same.
struct LevelByte {
  alignas(64) uint8_t at[3][64];
  constexpr LevelByte() : at() {
    for (int t = 0; t < 3; ++t) {
      for (int i = 0; i < 64; ++i) at[t][i] = static_cast<uint8_t>(4 * ((i >> (2 * t)) & 3));
    }
  }
};
constexpr LevelByte kLevelByte;

struct Int8 {
  using Sum = __m512i;
  using Element = int8_t;
  static constexpr int kSteps = 4;
#  if defined(__AVX512VBMI__)
  static constexpr int kMostRows = 8;
  static constexpr int kTables = 3;
#  else
  static constexpr int kMostRows = 4;  // of which codes are masked: more would not fit the registers
  static constexpr int kTables = 2;
#  endif
  __m512i tables[kTables];
  float step;  // value of one

  template <int R>
  static void read(const float* codebook, int64_t row_stride, Int8* modes) {
    const F32 levels = four_codebooks(codebook, row_stride, R);
    const F32 pairs = _mm512_max_ps(abs(levels), _mm512_permute_ps(abs(levels), 0x4e));
    const F32 steps = _mm512_max_ps(pairs, _mm512_permute_ps(pairs, 0xb1)) / splat(127.0f);
    const F32 divisors = select_gt(steps, splat(0.0f), steps, splat(1.0f));
    const __m512i rounded = _mm512_add_epi32(_mm512_cvtps_epi32(levels / divisors), _mm512_set1_epi32(128));
#  pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const __m512i row = _mm512_permutexvar_epi64(
          _mm512_add_epi64(_mm512_setr_epi64(0, 1, 0, 1, 0, 1, 0, 1), _mm512_set1_epi64(2 * r)), rounded);
#  pragma GCC unroll 3
      for (int t = 0; t < kTables; ++t)
        modes[r].tables[t] = _mm512_shuffle_epi8(row, _mm512_load_si512(kLevelByte.at[t]));
    }
    alignas(64) float values[16];
    store(values, steps);
#  pragma GCC unroll 4
    for (int r = 0; r < R; ++r) modes[r].step = values[4 * r];
  }
  __m512i look(__m512i words, int code) const {
#  if defined(__AVX512VBMI__)
    return _mm512_permutexvar_epi8(code == 3 ? _mm512_srli_epi16(words, 2) : words,
                                   tables[code == 3 ? 2 : code]);
#  else
    const __m512i pair = code < 2 ? words : _mm512_srli_epi16(words, 4);
    return _mm512_shuffle_epi8(tables[code % 2], _mm512_and_si512(pair, _mm512_set1_epi8(15)));
#  endif
  }
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum add(Sum a, Sum b) { return _mm512_add_epi32(a, b); }
  static Sum multiply(Sum s, __m512i w, __m512i x) { return _mm512_dpbusd_epi32(s, w, x); }
  static int32_t total(Sum s) { return sum(s); }
  float finish(int32_t total, const PreparedRows& rows, int64_t m) const {
    // Unsigned: the parts may pass 32 bits, the difference does not.
    const uint32_t sum = static_cast<uint32_t>(total) - 128u * static_cast<uint32_t>(rows.sums[m]);
    return static_cast<float>(static_cast<int32_t>(sum)) * (step * rows.steps[m]);
  }
};

// sums += one block of R weight rows times M rows of activations; a tail has words in its first lanes only,
// and what padding decodes to is masked, because level 0 may be infinite.
template <class Mode, int R, int M, int A, bool kTail>
GHOST_INLINE void block(const uint32_t* codes, int64_t words_per_row, const Mode (&modes)[R],
                        const typename Mode::Element* x, int64_t stride, typename Mode::Sum (&sums)[R][M][A],
                        __mmask16 valid) {
  __m512i words[R];
#  pragma GCC unroll 8
  for (int r = 0; r < R; ++r) words[r] = _mm512_maskz_loadu_epi32(valid, codes + r * words_per_row);
#  pragma GCC unroll 8
  for (int j = 0; j < Mode::kSteps; ++j) {
    __m512i v[R];
#  pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      v[r] = modes[r].look(words[r], j);
      if constexpr (kTail) v[r] = _mm512_maskz_mov_epi32(valid, v[r]);
    }
#  pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
      const __m512i xm = _mm512_loadu_si512(x + m * stride + j * (kBlock / Mode::kSteps));
#  pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sums[r][m][j % A] = Mode::multiply(sums[r][m][j % A], v[r], xm);
    }
  }
}

template <class Mode, int R, int M>
void tile(const CodedMatrix& w, const PreparedRows& rows, int64_t m0, int64_t row, float* y, int64_t ldy) {
  using Element = typename Mode::Element;
  constexpr int A =
      R * M < 8 ? 2 : 1;  // two accumulators where there are few: each addition waits for the last
  const Element* x = static_cast<const Element*>(rows.data) + m0 * rows.stride;
  const uint32_t* codes = w.codes + row * w.words();
  Mode modes[R];
  constexpr int kTogether = R == 8 ? 4 : R;
  for (int r = 0; r < R; r += kTogether)
    Mode::template read<kTogether>(w.codebook + (row + r) * w.row_stride, w.row_stride, modes + r);
  typename Mode::Sum sums[R][M][A];
#  pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
#  pragma GCC unroll 4
    for (int m = 0; m < M; ++m) {
#  pragma GCC unroll 2
      for (int a = 0; a < A; ++a) sums[r][m][a] = Mode::zero();
    }
  }
  int64_t k = 0;
#  pragma GCC unroll 1
  for (; k + kBlock <= w.columns; k += kBlock) {
    block<Mode, R, M, A, false>(codes + k / 16, w.words(), modes, x + k, rows.stride, sums, 0xffff);
  }
  if (k < w.columns) {
    const __mmask16 valid = first(static_cast<int>((w.columns - k) / 16));
    block<Mode, R, M, A, true>(codes + k / 16, w.words(), modes, x + k, rows.stride, sums, valid);
  }
#  pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
#  pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const auto all = A == 2 ? Mode::add(sums[r][m][0], sums[r][m][A - 1]) : sums[r][m][0];
      y[(m0 + m) * ldy + row + r] = modes[r].finish(Mode::total(all), rows, m0 + m);
    }
  }
}

template <class Mode, int M>
void some_rows(const CodedMatrix& w, const PreparedRows& rows, int64_t m0, int64_t n0, int64_t n1, float* y,
               int64_t ldy) {
  int64_t n = n0;
  // One row of x: eight rows of the weight keep eight sums going and as many streams of codes from memory.
  if constexpr (M == 1 && Mode::kMostRows == 8) {
    for (; n + 8 <= n1; n += 8) tile<Mode, 8, M>(w, rows, m0, n, y, ldy);
  }
  for (; n + 4 <= n1; n += 4) tile<Mode, 4, M>(w, rows, m0, n, y, ldy);
  for (; n < n1; ++n) tile<Mode, 1, M>(w, rows, m0, n, y, ldy);
}

template <class Mode>
void dot(const CodedMatrix& w, const PreparedRows& rows, int64_t n0, int64_t n1, float* y, int64_t ldy) {
  int64_t m = 0;
  for (; m + 4 <= rows.count; m += 4) some_rows<Mode, 4>(w, rows, m, n0, n1, y, ldy);
  const int64_t left = rows.count - m;
  if (left == 3) some_rows<Mode, 3>(w, rows, m, n0, n1, y, ldy);
  if (left == 2) some_rows<Mode, 2>(w, rows, m, n0, n1, y, ldy);
  if (left == 1) some_rows<Mode, 1>(w, rows, m, n0, n1, y, ldy);
}

#  if defined(__AVX512BF16__)
constexpr CodebookReducedKernels kernels{prepare_bfloat16, dot<Bfloat16>, prepare_int8, dot<Int8>};
#  else
constexpr CodebookReducedKernels kernels{nullptr, nullptr, prepare_int8, dot<Int8>};
#  endif

#else

constexpr CodebookReducedKernels kernels{nullptr, nullptr, nullptr, nullptr};

#endif

}  // namespace

extern const CodebookReducedKernels codebook_reduced_table{kernels};

}  // namespace ghost::GHOST_ISA
