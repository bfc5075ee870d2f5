#include "common/decode_simd.h"
#include "common/gemm_kernels.h"
#include "common/simd_transpose.h"

namespace ghost::GHOST_ISA {
namespace {

// Rows of a micro tile, two vectors wide: as many accumulators as leave registers for one row of B and the
// broadcast of A.
#if defined(__AVX512F__)
constexpr int kRows = 14;
#elif defined(__AVX2__)
constexpr int kRows = 6;
#elif defined(GHOST_ISA_neon)
constexpr int kRows = 12;
#else
constexpr int kRows = 4;
#endif

// Depths of B, and of A, asked for ahead of the sums, where panels outgrow a first-level cache of 32 KiB.
// Those of A come from farther: each is new to the core when the first panel of B meets it.
#if defined(__AVX512F__)
constexpr int kDepthsAhead = 8;
constexpr int kDepthsAheadOfA = 24;
#else
constexpr int kDepthsAhead = 0;
constexpr int kDepthsAheadOfA = 0;
#endif

struct Exact {
  static __attribute__((always_inline)) F32 multiply(F32 a, F32 b, F32 sum) { return fma(a, b, sum); }
};
#if defined(GHOST_ISA_avx512_bf16)
struct Pairs {
  static __attribute__((always_inline)) F32 multiply(F32 a, F32 b, F32 sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(b));
  }
};
#endif

template <class Mode, int R, int V>
void micro(int64_t depth, const float* a, int64_t a_row, int64_t a_depth, const float* b, float* c,
           int64_t ldc, int rows, int columns, bool accumulate) {
  // Three rows a pointer: x86 addresses base, base + index and base + 2 * index.
  constexpr int kPointers = (R + 2) / 3;
  const float* group[kPointers];
#pragma GCC unroll 8
  for (int g = 0; g < kPointers; ++g) group[g] = a + 3 * g * a_row;
  F32 sums[R][V];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) sums[i][v] = splat(0.0f);
  }
#pragma GCC unroll 1
  for (int64_t k = 0; k < depth; ++k) {
    F32 row[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      row[v] = load(b + v * kWidth);
      if (kDepthsAhead) __builtin_prefetch(b + (kDepthsAhead * V + v) * kWidth);
    }
    if (kDepthsAheadOfA) __builtin_prefetch(group[0] + kDepthsAheadOfA * a_depth);
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
      const F32 ai = splat(group[i / 3][(i % 3) * a_row]);
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sums[i][v] = Mode::multiply(ai, row[v], sums[i][v]);
    }
#pragma GCC unroll 8
    for (int g = 0; g < kPointers; ++g) group[g] += a_depth;
    b += V * kWidth;
  }
  if (rows == R && columns == V * kWidth) {
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) {
        float* to = c + i * ldc + v * kWidth;
        store(to, accumulate ? load(to) + sums[i][v] : sums[i][v]);
      }
    }
    return;
  }
  // An edge tile goes through memory, so that the sums above are never indexed by a variable.
  float buffer[R * V * kWidth];
#pragma GCC unroll 16
  for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) store(buffer + (i * V + v) * kWidth, sums[i][v]);
  }
  for (int i = 0; i < rows; ++i) {
    for (int v = 0; v * kWidth < columns; ++v) {
      float* to = c + i * ldc + v * kWidth;
      const F32 sum = load(buffer + (i * V + v) * kWidth);
      const int n = min_of(kWidth, columns - v * kWidth);
      if (n == kWidth) {
        store(to, accumulate ? load(to) + sum : sum);
      } else {
        store_n(to, accumulate ? load_n(to, n) + sum : sum, n);
      }
    }
  }
}

template <class Mode>
constexpr GemmMicroKernel micro_kernels[] = {
    micro<Mode, 1, 1>,  micro<Mode, 1, 2>,  micro<Mode, 2, 1>,  micro<Mode, 2, 2>,
    micro<Mode, 3, 1>,  micro<Mode, 3, 2>,  micro<Mode, 4, 1>,  micro<Mode, 4, 2>,
#if !defined(GHOST_ISA_portable)
    micro<Mode, 5, 1>,  micro<Mode, 5, 2>,  micro<Mode, 6, 1>,  micro<Mode, 6, 2>,
#endif
#if defined(__AVX512F__) || defined(GHOST_ISA_neon)
    micro<Mode, 7, 1>,  micro<Mode, 7, 2>,  micro<Mode, 8, 1>,  micro<Mode, 8, 2>,
    micro<Mode, 9, 1>,  micro<Mode, 9, 2>,  micro<Mode, 10, 1>, micro<Mode, 10, 2>,
    micro<Mode, 11, 1>, micro<Mode, 11, 2>, micro<Mode, 12, 1>, micro<Mode, 12, 2>,
#endif
#if defined(__AVX512F__)
    micro<Mode, 13, 1>, micro<Mode, 13, 2>, micro<Mode, 14, 1>, micro<Mode, 14, 2>,
#endif
};
static_assert(sizeof(micro_kernels<Exact>) == 2 * kRows * sizeof(GemmMicroKernel));

// Writes up to kWidth lanes of one depth index. A whole vector of the first lanes may spill into the
// following index, which is written later, but not over the end of the panel; later lanes would spill into
// what is there.
GHOST_INLINE void put(float* to, const float* end, F32 v, int lanes, bool first) {
  if (lanes == kWidth || (first && to + kWidth <= end)) {
    store(to, v);
  } else {
    store_n(to, v, lanes);
  }
}

// Writes `depth` vectors from lane lane0 of as many depth indices on.
GHOST_INLINE void put_block(float* to, const float* end, const F32* block, int depth, int stride, int lane0) {
  const int lanes = min_of(kWidth, stride - lane0);
  const bool first = lane0 == 0;
  if (depth == kWidth && (lanes == kWidth || (first && to + (kWidth - 1) * stride + kWidth <= end))) {
#pragma GCC unroll 16
    for (int j = 0; j < kWidth; ++j) store(to + j * stride, block[j]);
  } else {
    F32 rows[kWidth];
    for (int j = 0; j < kWidth; ++j) rows[j] = block[j];
    for (int j = 0; j < depth; ++j) put(to + j * stride, end, rows[j], lanes, first);
  }
}

// Asks for what the next panel will read where this one reads `count` elements: rows are too short for
// hardware prefetchers to follow.
template <class T>
GHOST_INLINE void prefetch_panel_after(const GemmOperand& m, const T* from, int stride, int count) {
  const auto next =
      reinterpret_cast<uintptr_t>(from) + static_cast<size_t>(stride * m.outer_stride) * sizeof(T);
  for (size_t i = 0; i < static_cast<size_t>(count) * sizeof(T); i += 64) {
    __builtin_prefetch(reinterpret_cast<const void*>(next + i));
  }
}

// The depth index is contiguous in memory: square blocks are transposed in registers.
template <class T>
void pack_transposed(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                     float* panel) {
  const T* data = static_cast<const T*>(m.data);
  const float* end = panel + (k1 - k0) * stride;
  for (int64_t k = k0; k < k1; k += kWidth) {
    const int depth = static_cast<int>(min_of<int64_t>(kWidth, k1 - k));
    for (int lane0 = 0; lane0 < stride; lane0 += kWidth) {
      F32 block[kWidth];
#pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        const T* from = data + (outer0 + lane0 + i) * m.outer_stride + k;
        prefetch_panel_after(m, from, stride, kWidth);
        block[i] = lane0 + i >= count ? splat(0.0f) : depth == kWidth ? load(from) : load_n(from, depth);
      }
      transpose(block);
      put_block(panel + (k - k0) * stride + lane0, end, block, depth, stride, lane0);
    }
  }
}

// Rows of the operand are far apart, out of reach of hardware prefetchers.
constexpr int64_t kAhead = 16;

// The outer index is contiguous in memory.
template <class T>
void pack_straight(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                   float* panel) {
  const T* data = static_cast<const T*>(m.data) + outer0;
  const float* end = panel + (k1 - k0) * stride;
  // A whole vector is read where the operand goes on, even if the panel does not.
  const int64_t readable = m.outer - outer0;
  for (int64_t k = k0; k < k1; ++k) {
    const T* from = data + k * m.depth_stride;
    float* to = panel + (k - k0) * stride;
    for (int lane0 = 0; lane0 < stride; lane0 += kWidth) {
      const int lanes = min_of(kWidth, stride - lane0);
      const int have = max_of(0, min_of(lanes, count - lane0));
      __builtin_prefetch(from + kAhead * m.depth_stride + lane0);
      const F32 v = have == lanes && readable >= lane0 + kWidth ? load(from + lane0)
                    : have > 0                                  ? load_n(from + lane0, have)
                                                                : splat(0.0f);
      put(to + lane0, end, v, lanes, true);
    }
  }
}

// The outer index is the row of a coded matrix. Words of kWidth rows are transposed, so that a lane holds a
// row; its four levels sit in the same lane of four vectors.
void pack_code_rows(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                    float* panel) {
  const CodedMatrix& w = m.coded;
  const int64_t words = w.words();
  for (int lane0 = 0; lane0 < stride; lane0 += kWidth) {
    const int64_t row0 = outer0 + lane0;
    const int rows = max_of(0, min_of(kWidth, count - lane0));
    F32 levels[4];
    int64_t next_group = k0 / 16;  // word of another codebook; a division takes as long as a word
    F32 block[kWidth];
    int64_t block0 = -1;
    for (int64_t word = k0 / 16; word < k1 / 16; ++word) {
      if (block0 < 0 || word == block0 + kWidth) {
        block0 = word;
        const int n = static_cast<int>(min_of<int64_t>(kWidth, k1 / 16 - word));
        for (int i = 0; i < kWidth; ++i) {
          const float* from = reinterpret_cast<const float*>(w.codes) + (row0 + i) * words + word;
          block[i] = i >= rows ? splat(0.0f) : n == kWidth ? load(from) : load_n(from, n);
        }
        transpose(block);
      }
      if (word == next_group) {
        const int64_t group = word * 16 / w.group_size;
        next_group = (group + 1) * w.group_size / 16;
        float gathered[4][kWidth] = {};
        for (int i = 0; i < rows; ++i) {
          const float* codebook = w.codebook + (row0 + i) * w.row_stride + 4 * group;
          for (int c = 0; c < 4; ++c) gathered[c][i] = codebook[c];
        }
        for (int c = 0; c < 4; ++c) levels[c] = load(gathered[c]);
      }
      const Words codes = words_of(block[word - block0]);
      float* to = panel + (word * 16 - k0) * stride + lane0;
#pragma GCC unroll 16
      for (int j = 0; j < 16; ++j) store(to + j * stride, select_level(codes, j, levels));
    }
  }
}

// The outer index is the column of a coded matrix: runs of codes of one row.
void pack_code_columns(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                       float* panel) {
  const CodedMatrix& w = m.coded;
  const int64_t words = w.words();
  for (int lane0 = 0; lane0 < stride; lane0 += kWidth) {
    const int64_t column = outer0 + lane0;
    const uint32_t* codes = w.codes + column / 16;
    const float* codebook = w.codebook + 4 * (column / w.group_size);
    for (int64_t row = k0; row < k1; ++row) {
      store(panel + (row - k0) * stride + lane0,
            lane0 >= count ? splat(0.0f)
                           : decode_run(codes[row * words], static_cast<int>(column % 16),
                                        codebook + row * w.row_stride));
    }
  }
}

void pack(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1, float* panel) {
  const bool transposed = m.depth_stride == 1;
  switch (m.type) {
    case GemmOperand::Type::f32:
      return transposed ? pack_transposed<float>(m, outer0, count, stride, k0, k1, panel)
                        : pack_straight<float>(m, outer0, count, stride, k0, k1, panel);
    case GemmOperand::Type::f16:
      return transposed ? pack_transposed<float16>(m, outer0, count, stride, k0, k1, panel)
                        : pack_straight<float16>(m, outer0, count, stride, k0, k1, panel);
    case GemmOperand::Type::bf16:
      return transposed ? pack_transposed<bfloat16>(m, outer0, count, stride, k0, k1, panel)
                        : pack_straight<bfloat16>(m, outer0, count, stride, k0, k1, panel);
    case GemmOperand::Type::codes:
      return m.outer_is_columns ? pack_code_columns(m, outer0, count, stride, k0, k1, panel)
                                : pack_code_rows(m, outer0, count, stride, k0, k1, panel);
  }
}

#if defined(GHOST_ISA_avx512_bf16)
// Lane i: even[i] in the low half and odd[i] in the high one.
GHOST_INLINE F32 interleaved(F32 even, F32 odd) {
  alignas(64) static constexpr uint16_t order[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                     21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                     11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(odd, even));
  return _mm512_castsi512_ps(_mm512_permutexvar_epi16(_mm512_load_si512(order), both));
}

// Like pack_transposed: what lies side by side in memory are pairs already, once it is bfloat16.
template <class T>
void pack_pairs_transposed(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0,
                           int64_t k1, float* panel) {
  const T* data = static_cast<const T*>(m.data);
  const float* end = panel + (k1 - k0) * stride;
  for (int64_t k = k0; k < k1; k += kWidth) {
    const int pairs = static_cast<int>(min_of<int64_t>(kWidth, k1 - k));
    const int depths = static_cast<int>(min_of<int64_t>(2 * pairs, m.depth - 2 * k));
    const int low = min_of(depths, kWidth);
    const int high = depths - low;
    for (int lane0 = 0; lane0 < stride; lane0 += kWidth) {
      F32 block[kWidth];
#  pragma GCC unroll 16
      for (int i = 0; i < kWidth; ++i) {
        const T* from = data + (outer0 + lane0 + i) * m.outer_stride + 2 * k;
        if (lane0 + i >= count) {
          block[i] = splat(0.0f);
          continue;
        }
        prefetch_panel_after(m, from, stride, 2 * kWidth);
        const F32 a = low == kWidth ? load(from) : load_n(from, low);
        const F32 b = high == kWidth ? load(from + kWidth) : load_n(from + kWidth, high);
        block[i] = reinterpret_cast<F32>(_mm512_cvtne2ps_pbh(b, a));
      }
      transpose(block);
      put_block(panel + (k - k0) * stride + lane0, end, block, pairs, stride, lane0);
    }
  }
}

// Like pack_straight, two depths at a time.
template <class T>
void pack_pairs_straight(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                         float* panel) {
  const T* data = static_cast<const T*>(m.data) + outer0;
  const float* end = panel + (k1 - k0) * stride;
  const int64_t readable = m.outer - outer0;
  for (int64_t k = k0; k < k1; ++k) {
    const T* from = data + 2 * k * m.depth_stride;
    float* to = panel + (k - k0) * stride;
    const bool single = 2 * k + 1 == m.depth;
    for (int lane0 = 0; lane0 < stride; lane0 += kWidth) {
      const int lanes = min_of(kWidth, stride - lane0);
      const int have = max_of(0, min_of(lanes, count - lane0));
      const bool whole = have == lanes && readable >= lane0 + kWidth;
      const auto row = [&](const T* at) {
        __builtin_prefetch(at + kAhead * m.depth_stride);
        return whole ? load(at) : have > 0 ? load_n(at, have) : splat(0.0f);
      };
      const F32 even = row(from + lane0);
      const F32 odd = single ? splat(0.0f) : row(from + m.depth_stride + lane0);
      put(to + lane0, end, interleaved(even, odd), lanes, true);
    }
  }
}

// Codes go through a buffer of float32, a few depths at a time.
void pack_pairs_codes(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                      float* panel) {
  constexpr int64_t kAtOnce = 16;
  float buffer[2 * kAtOnce * 2 * kWidth];
  for (int64_t k = k0; k < k1; k += kAtOnce) {
    const int64_t pairs = min_of(kAtOnce, k1 - k);
    const int64_t end = min_of(2 * (k + pairs), m.depth);
    pack(m, outer0, count, stride, 2 * k, end, buffer);
    const int64_t filled = (end - 2 * k) * stride;
    for (int64_t i = filled; i < 2 * pairs * stride; ++i) buffer[i] = 0.0f;
    for (int64_t p = 0; p < pairs; ++p) {
      const float* even = buffer + 2 * p * stride;
      float* to = panel + (k - k0 + p) * stride;
      for (int i = 0; i < stride; i += kWidth) {
        const int n = min_of(kWidth, stride - i);
        store_n(to + i, interleaved(load_n(even + i, n), load_n(even + stride + i, n)), n);
      }
    }
  }
}

template <class T>
void pack_pairs_of(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                   float* panel) {
  m.depth_stride == 1 ? pack_pairs_transposed<T>(m, outer0, count, stride, k0, k1, panel)
                      : pack_pairs_straight<T>(m, outer0, count, stride, k0, k1, panel);
}

// Depths [2 k0, 2 k1), those past the end of the operand zero.
void pack_pairs(const GemmOperand& m, int64_t outer0, int count, int stride, int64_t k0, int64_t k1,
                float* panel) {
  switch (m.type) {
    case GemmOperand::Type::f32:
      return pack_pairs_of<float>(m, outer0, count, stride, k0, k1, panel);
    case GemmOperand::Type::f16:
      return pack_pairs_of<float16>(m, outer0, count, stride, k0, k1, panel);
    case GemmOperand::Type::bf16:
      return pack_pairs_of<bfloat16>(m, outer0, count, stride, k0, k1, panel);
    case GemmOperand::Type::codes:
      return pack_pairs_codes(m, outer0, count, stride, k0, k1, panel);
  }
}
constexpr const GemmMicroKernel* kMicroPairs = micro_kernels<Pairs>;
constexpr GemmPack kPackPairs = pack_pairs;
#else
constexpr const GemmMicroKernel* kMicroPairs = nullptr;
constexpr GemmPack kPackPairs = nullptr;
#endif

template <class T>
void narrow(const float* from, T* to, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, load(from + i));
  for (; i < n; ++i) store1(to + i, from[i]);
}

template <class T>
void widen(const T* from, float* to, int64_t n) {
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) store(to + i, load(from + i));
  for (; i < n; ++i) to[i] = load1(from + i);
}

}  // namespace

extern const GemmKernels gemm_table{kRows,          kWidth,         micro_kernels<Exact>, pack,
                                    kMicroPairs,    kPackPairs,     narrow<float16>,      narrow<bfloat16>,
                                    widen<float16>, widen<bfloat16>};

}  // namespace ghost::GHOST_ISA
