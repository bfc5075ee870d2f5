#include "codebook_matmul/codebook_matmul_kernels.h"
#include "common/decode_simd.h"
#include "common/simd_transpose.h"

namespace ghost::GHOST_ISA {
namespace {

#if defined(__AVX512VNNI__)

constexpr int kPanel = kCodebookPanelRows;
constexpr int kRows = 14;  // of x in a micro tile: 28 sums, two vectors of the panel and a broadcast

#  if defined(__AVX512BF16__)

// The depth indices that share a 32-bit lane are those whose codes have the same place in the halves or bytes
// of a word, so that decoding tests one bit of every half or byte.
struct Bfloat16 {
  using Element = uint16_t;
  using Sum = __m512;
  using Total = float;
  static constexpr int kSteps = 8;  // vectors a word decodes to

  // A level of 16 rows in both halves of their lanes.
  static void levels(const float (*gathered)[16], __m512i* out) {
    for (int c = 0; c < 4; ++c) {
      const __m256i rounded = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(_mm512_loadu_ps(gathered[c])));
      const __m512i wide = _mm512_cvtepu16_epi32(rounded);
      out[c] = _mm512_or_si512(wide, _mm512_slli_epi32(wide, 16));
    }
  }
  static __m512i decode(__m512i words, int step, const __m512i* level) {
    const __mmask32 low =
        _mm512_test_epi16_mask(words, _mm512_set1_epi16(static_cast<short>(1 << (2 * step))));
    const __mmask32 high =
        _mm512_test_epi16_mask(words, _mm512_set1_epi16(static_cast<short>(2 << (2 * step))));
    return _mm512_mask_mov_epi16(_mm512_mask_mov_epi16(level[0], low, level[1]), high,
                                 _mm512_mask_mov_epi16(level[2], low, level[3]));
  }
  static Sum zero() { return _mm512_setzero_ps(); }
  static Sum load_sum(const Total* p) { return _mm512_loadu_ps(p); }
  static void store_sum(Total* p, Sum v) { _mm512_storeu_ps(p, v); }
  static Sum add(Sum a, Sum b) { return _mm512_add_ps(a, b); }
  static Sum multiply(Sum s, __m512i w, __m512i x) {
    return _mm512_dpbf16_ps(s, reinterpret_cast<__m512bh>(w), reinterpret_cast<__m512bh>(x));
  }
};

void prepare_bfloat16(const float* x, int64_t columns, uint16_t* prepared) {
  for (int64_t k = 0; k < columns; k += 16) {
    alignas(32) bfloat16 rounded[16];
    store(rounded, load(x + k));
    const __m128i first = _mm_load_si128(reinterpret_cast<const __m128i*>(rounded));
    const __m128i second = _mm_load_si128(reinterpret_cast<const __m128i*>(rounded + 8));
    __m128i* to = reinterpret_cast<__m128i*>(prepared + k);
    _mm_storeu_si128(to, _mm_unpacklo_epi16(first, second));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(first, second));
  }
}

#  endif

struct Int8 {
  using Element = int8_t;
  using Sum = __m512i;
  using Total = int32_t;
  static constexpr int kSteps = 4;

  // A rounded level of 16 rows, 128 added, in all bytes of their lanes.
  static void levels(const float (*gathered)[16], __m512i* out) {
    F32 largest = abs(load(gathered[0]));
    for (int c = 1; c < 4; ++c) largest = _mm512_max_ps(largest, abs(load(gathered[c])));
    const F32 steps = largest / splat(127.0f);
    const F32 divisors = select_gt(steps, splat(0.0f), steps, splat(1.0f));
    for (int c = 0; c < 4; ++c) {
      const __m512i rounded = _mm512_cvtps_epi32(load(gathered[c]) / divisors);
      const __m512i byte =
          _mm512_and_si512(_mm512_add_epi32(rounded, _mm512_set1_epi32(128)), _mm512_set1_epi32(255));
      const __m512i half = _mm512_or_si512(byte, _mm512_slli_epi32(byte, 8));
      out[c] = _mm512_or_si512(half, _mm512_slli_epi32(half, 16));
    }
  }
  static __m512i decode(__m512i words, int step, const __m512i* level) {
    const __mmask64 low = _mm512_test_epi8_mask(words, _mm512_set1_epi8(static_cast<char>(1 << (2 * step))));
    const __mmask64 high = _mm512_test_epi8_mask(words, _mm512_set1_epi8(static_cast<char>(2 << (2 * step))));
    return _mm512_mask_mov_epi8(_mm512_mask_mov_epi8(level[0], low, level[1]), high,
                                _mm512_mask_mov_epi8(level[2], low, level[3]));
  }
  static Sum zero() { return _mm512_setzero_si512(); }
  static Sum load_sum(const Total* p) { return _mm512_loadu_si512(p); }
  static void store_sum(Total* p, Sum v) { _mm512_storeu_si512(p, v); }
  static Sum add(Sum a, Sum b) { return _mm512_add_epi32(a, b); }
  static Sum multiply(Sum s, __m512i w, __m512i x) { return _mm512_dpbusd_epi32(s, w, x); }
};

int32_t prepare_int8(const float* x, float step, int64_t columns, int8_t* prepared) {
  const F32 divisor = splat(step > 0.0f ? step : 1.0f);
  const __m128i order = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
  __m512i total = _mm512_setzero_si512();
  for (int64_t k = 0; k < columns; k += 16) {
    const __m512i rounded = _mm512_cvtps_epi32(load(x + k) / divisor);
    total = _mm512_add_epi32(total, rounded);
    const __m128i bytes = _mm_shuffle_epi8(_mm512_cvtsepi32_epi8(rounded), order);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(prepared + k), bytes);
  }
  return sum(total);
}

int32_t largest_bits(const float* x, int64_t n) {
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i largest[4];
  for (auto& v : largest) v = _mm512_setzero_si512();
  const auto note = [&](int i, F32 v) {
    largest[i] = _mm512_max_epi32(largest[i], _mm512_and_si512(_mm512_castps_si512(v), magnitude));
  };
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
#  pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) note(j, load(x + i + 16 * j));
  }
  for (; i < n; i += 16) note(0, load_n(x + i, static_cast<int>(min_of<int64_t>(16, n - i))));
  return _mm512_reduce_max_epi32(
      _mm512_max_epi32(_mm512_max_epi32(largest[0], largest[1]), _mm512_max_epi32(largest[2], largest[3])));
}

// Words [word0, word1) of weight rows [row0, row0 + rows): two vectors a step, a lane a row, rows missing
// zero.
template <class Mode>
void pack(const CodedMatrix& w, int64_t row0, int rows, int64_t word0, int64_t word1, void* panel) {
  auto* to = static_cast<__m512i*>(panel);
  const float* codes = reinterpret_cast<const float*>(w.codes);
  for (int half = 0; half < 2; ++half) {
    const int64_t first_row = row0 + 16 * half;
    const int here = max_of(0, min_of(16, rows - 16 * half));
    __m512i level[4];
    int64_t next_group = word0;  // word of another codebook; a division takes as long as a word
    for (int64_t word = word0; word < word1; word += 16) {
      const int n = static_cast<int>(min_of<int64_t>(16, word1 - word));
      F32 block[16];
      for (int i = 0; i < 16; ++i)
        block[i] = i < here ? load_n(codes + (first_row + i) * w.words() + word, n) : splat(0.0f);
      transpose(block);
      for (int i = 0; i < n; ++i) {
        if (word + i == next_group) {
          const int64_t group = next_group * 16 / w.group_size;
          next_group = (group + 1) * w.group_size / 16;
          float gathered[4][16] = {};
          for (int r = 0; r < here; ++r) {
            const float* codebook = w.codebook + (first_row + r) * w.row_stride + 4 * group;
            for (int c = 0; c < 4; ++c) gathered[c][r] = codebook[c];
          }
          Mode::levels(gathered, level);
        }
        __m512i* at = to + (word + i - word0) * Mode::kSteps * 2 + half;
#  pragma GCC unroll 8
        for (int s = 0; s < Mode::kSteps; ++s)
          _mm512_store_si512(at + 2 * s, Mode::decode(words_of(block[i]), s, level));
      }
    }
  }
}

// c[m, :] = or += panel times R rows of x.
template <class Mode, int R>
void micro(int64_t steps, const void* x, int64_t stride, const void* panel, void* c, bool accumulate) {
  constexpr int kGroups = (R + 2) / 3;  // three rows a pointer, as x86 addresses
  const int64_t row = stride / 4;
  const int32_t* group[kGroups];
#  pragma GCC unroll 8
  for (int g = 0; g < kGroups; ++g) group[g] = static_cast<const int32_t*>(x) + 3 * g * row;
  const auto* w = static_cast<const __m512i*>(panel);
  typename Mode::Sum sums[R][2];
#  pragma GCC unroll 16
  for (int i = 0; i < R; ++i) sums[i][0] = sums[i][1] = Mode::zero();
#  pragma GCC unroll 1
  for (int64_t s = 0; s < steps; ++s) {
    const __m512i w0 = _mm512_load_si512(w + 2 * s);
    const __m512i w1 = _mm512_load_si512(w + 2 * s + 1);
#  pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const __m512i xi = _mm512_set1_epi32(group[i / 3][(i % 3) * row]);
      sums[i][0] = Mode::multiply(sums[i][0], w0, xi);
      sums[i][1] = Mode::multiply(sums[i][1], w1, xi);
    }
#  pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) ++group[g];
  }
  auto* to = static_cast<typename Mode::Total*>(c);
#  pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#  pragma GCC unroll 2
    for (int v = 0; v < 2; ++v) {
      auto* at = to + i * kPanel + 16 * v;
      Mode::store_sum(at, accumulate ? Mode::add(Mode::load_sum(at), sums[i][v]) : sums[i][v]);
    }
  }
}

template <class Mode, int... R>
struct Micro {
  static constexpr CodebookPanelMicro kernels[] = {micro<Mode, R>...};
};
template <class Mode>
using AllRows = Micro<Mode, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14>;

template <class Mode>
void multiply(int64_t words, const void* x, int64_t stride, int64_t rows, const void* panel, void* c,
              bool accumulate) {
  for (int64_t m = 0; m < rows; m += kRows) {
    const int64_t here = min_of<int64_t>(kRows, rows - m);
    AllRows<Mode>::kernels[here - 1](words * Mode::kSteps, static_cast<const char*>(x) + m * stride, stride,
                                     panel, static_cast<typename Mode::Total*>(c) + m * kPanel, accumulate);
  }
}

void scales_int8(const CodedMatrix& w, int64_t row0, int rows, float* scales) {
  for (int r = 0; r < rows; ++r) {
    const float* codebook = w.codebook + (row0 + r) * w.row_stride;
    float largest = 0.0f;
    for (int i = 0; i < 4; ++i) largest = max_of(largest, std::fabs(codebook[i]));
    scales[r] = largest / 127.0f;
  }
  for (int r = rows; r < kPanel; ++r) scales[r] = 0.0f;
}

// y[m, 16 v...] = value(m, v), of the last vector the columns that there are.
template <class Value>
GHOST_INLINE void finish(int64_t rows, int columns, float* y, int64_t ldy, Value&& value) {
  if (columns == kPanel) {
    for (int64_t m = 0; m < rows; ++m) {
      store(y + m * ldy, value(m, 0));
      store(y + m * ldy + 16, value(m, 1));
    }
    return;
  }
  for (int64_t m = 0; m < rows; ++m) {
    for (int v = 0; 16 * v < columns; ++v)
      store_n(y + m * ldy + 16 * v, value(m, v), min_of(16, columns - 16 * v));
  }
}

void finish_int8(const float* scales, int columns, const void* c, const PreparedRows& x, float* y,
                 int64_t ldy) {
  const int32_t* from = static_cast<const int32_t*>(c);
  const F32 scale[2] = {load(scales), load(scales + 16)};
  finish(x.count, columns, y, ldy, [&](int64_t m, int v) {
    const __m512i offset = _mm512_set1_epi32(static_cast<int>(128u * static_cast<uint32_t>(x.sums[m])));
    const __m512i sum = _mm512_sub_epi32(_mm512_loadu_si512(from + m * kPanel + 16 * v), offset);
    return F32(_mm512_cvtepi32_ps(sum)) * (scale[v] * splat(x.steps[m]));
  });
}

constexpr CodebookPanelMode int8{pack<Int8>, multiply<Int8>, scales_int8, finish_int8};

#  if defined(__AVX512BF16__)
void finish_bfloat16(const float*, int columns, const void* c, const PreparedRows& x, float* y, int64_t ldy) {
  const float* from = static_cast<const float*>(c);
  finish(x.count, columns, y, ldy, [&](int64_t m, int v) { return load(from + m * kPanel + 16 * v); });
}

constexpr CodebookPanelKernels kernels{prepare_bfloat16,
                                       prepare_int8,
                                       largest_bits,
                                       {pack<Bfloat16>, multiply<Bfloat16>, nullptr, finish_bfloat16},
                                       int8};
#  else
constexpr CodebookPanelKernels kernels{nullptr, prepare_int8, largest_bits, {}, int8};
#  endif

#else

constexpr CodebookPanelKernels kernels{};

#endif

}  // namespace

extern const CodebookPanelKernels codebook_panel_table{kernels};

}  // namespace ghost::GHOST_ISA
