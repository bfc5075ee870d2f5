// What the forward and backward kernels of the scan share. Included by *_simd.cpp files only.
#pragma once

#include "common/simd.h"
#include "selective_scan/selective_scan_kernels.h"

namespace ghost::GHOST_ISA {

constexpr float kLog2e = 1.44269504088896341f;
constexpr float kLn2 = 0.693147180559945309f;

// 2^x, relative error under 1.7e-7, 1 exactly at 0: the polynomial is minimax on [-1/2, 1/2] with that
// constraint. The decay is 2^(delta * A log2(e)), so no argument reduction by ln 2 is needed; this is the
// hot spot of the scan.
GHOST_INLINE F32 exp2(F32 x) {
#if defined(__AVX512F__)
  // scalef takes any exponent: for an infinite n it gives 0 or infinity even where r is no number.
  const F32 n = round_even(x);
  const F32 r = x - n;
#else
  x = max(splat(-126.0f), min(splat(127.0f), x));
  const F32 n = round_even(x);
  const F32 r = x - n;
#endif
  F32 p = splat(1.3264727252623489e-3f);
  p = fma(p, r, splat(9.671512785778161e-3f));
  p = fma(p, r, splat(5.5507337444712396e-2f));
  p = fma(p, r, splat(2.4022242083111786e-1f));
  p = fma(p, r, splat(6.93146977597678e-1f));
  p = fma(p, r, splat(1.0f));
  return scale_by_power_of_two(p, n);
}

// Blocks of a slice: `index`-th vector of channels, `lanes` of them real.
struct Block {
  int64_t channel;
  int lanes;
};
GHOST_INLINE int64_t num_blocks(const ScanSlice& slice) { return (slice.channels + kWidth - 1) / kWidth; }
GHOST_INLINE Block block_of(const ScanSlice& slice, int64_t index) {
  const int64_t left = slice.channels - index * kWidth;
  return {slice.channel0 + index * kWidth, static_cast<int>(min_of<int64_t>(left, kWidth))};
}

template <class T>
GHOST_INLINE F32 load_lanes(const T* p, int lanes) {
  return lanes == kWidth ? load(p) : load_n(p, lanes);
}
template <class T>
GHOST_INLINE void store_lanes(T* p, F32 v, int lanes) {
  lanes == kWidth ? store(p, v) : store_n(p, v, lanes);
}
GHOST_INLINE F32 load_optional(const float* p, int lanes) { return p ? load_lanes(p, lanes) : splat(0.0f); }

// Four-by-four transposes move a (lanes, dstate) matrix in and out of the (dstate, width) form.
typedef float F4 __attribute__((vector_size(16)));
GHOST_INLINE F4 load4(const float* p) {
  F4 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
GHOST_INLINE void transpose4(const float* from, int64_t from_stride, float* to, int64_t to_stride,
                             float scale) {
  const F4 a = load4(from), b = load4(from + from_stride), c = load4(from + 2 * from_stride),
           d = load4(from + 3 * from_stride);
  const F4 ab_lo = __builtin_shufflevector(a, b, 0, 4, 1, 5),
           ab_hi = __builtin_shufflevector(a, b, 2, 6, 3, 7);
  const F4 cd_lo = __builtin_shufflevector(c, d, 0, 4, 1, 5),
           cd_hi = __builtin_shufflevector(c, d, 2, 6, 3, 7);
  const F4 rows[4] = {
      __builtin_shufflevector(ab_lo, cd_lo, 0, 1, 4, 5) * scale,
      __builtin_shufflevector(ab_lo, cd_lo, 2, 3, 6, 7) * scale,
      __builtin_shufflevector(ab_hi, cd_hi, 0, 1, 4, 5) * scale,
      __builtin_shufflevector(ab_hi, cd_hi, 2, 3, 6, 7) * scale,
  };
  for (int i = 0; i < 4; ++i) std::memcpy(to + i * to_stride, &rows[i], sizeof(F4));
}

// to[j, i] = scale * from[i, j] for a (rows, columns) matrix.
static inline void transpose(const float* from, int64_t from_stride, int rows, int columns, float* to,
                             int64_t to_stride, float scale) {
  const int rows4 = rows & ~3, columns4 = columns & ~3;
  for (int i = 0; i < rows4; i += 4) {
    for (int j = 0; j < columns4; j += 4) {
      transpose4(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride, scale);
    }
  }
  for (int i = 0; i < rows; ++i) {
    for (int j = i < rows4 ? columns4 : 0; j < columns; ++j) {
      to[j * to_stride + i] = scale * from[i * from_stride + j];
    }
  }
}

// One block of a (dim, dstate) operand to (dstate, width), lanes past the end zero, and back.
static inline void pack_block(const float* from, Block block, int dstate, float* packed, float scale) {
  if (block.lanes < kWidth) {
    for (int n = 0; n < dstate; ++n) store(packed + n * kWidth, splat(0.0f));
  }
  transpose(from + block.channel * dstate, dstate, block.lanes, dstate, packed, kWidth, scale);
}
static inline void unpack_block(const float* packed, Block block, int dstate, float* to) {
  transpose(packed, kWidth, dstate, block.lanes, to + block.channel * dstate, dstate, 1.0f);
}

// The state before the first row of every block, packed.
template <class T>
inline void pack_state(const ScanSequence<T>& in, const ScanSlice& slice, const float* state, float* packed) {
  const int64_t size = static_cast<int64_t>(in.dstate) * kWidth;
  for (int64_t k = 0; k < num_blocks(slice); ++k) {
    if (state) {
      pack_block(state, block_of(slice, k), in.dstate, packed + k * size, 1.0f);
    } else {
      for (int n = 0; n < in.dstate; ++n) store(packed + k * size + n * kWidth, splat(0.0f));
    }
  }
}

// Calls body.template operator()<N>(first) over [0, dstate) in blocks of `Most` states and then of smaller
// powers of two, so that every block keeps its states in registers.
template <int Most, class Body>
GHOST_INLINE void for_state_blocks(int dstate, Body&& body) {
  int n = 0;
  for (; n + Most <= dstate; n += Most) body.template operator()<Most>(n);
  if constexpr (Most > 8) {
    if (n + 8 <= dstate) body.template operator()<8>(n), n += 8;
  }
  if constexpr (Most > 4) {
    if (n + 4 <= dstate) body.template operator()<4>(n), n += 4;
  }
  if constexpr (Most > 2) {
    if (n + 2 <= dstate) body.template operator()<2>(n), n += 2;
  }
  if (n < dstate) body.template operator()<1>(n);
}

// The sums over lanes of kWidth vectors, in order, one per lane of the result: a tree of pairwise folds, each
// halving the partial sums of two vectors and packing them into one.
#if defined(__AVX512F__)
GHOST_INLINE F32 sum_each(const F32* v) {
  F32 quarters[4];
  for (int e = 0; e < 4; ++e) {
    const F32 a = _mm512_shuffle_f32x4(v[e], v[4 + e], 0x44) + _mm512_shuffle_f32x4(v[e], v[4 + e], 0xee);
    const F32 b =
        _mm512_shuffle_f32x4(v[8 + e], v[12 + e], 0x44) + _mm512_shuffle_f32x4(v[8 + e], v[12 + e], 0xee);
    quarters[e] = _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
  }
  F32 pairs[2];
  for (int e = 0; e < 2; ++e) {
    const __m512d a = _mm512_castps_pd(quarters[2 * e]), b = _mm512_castps_pd(quarters[2 * e + 1]);
    pairs[e] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)) + _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
  }
  return _mm512_shuffle_ps(pairs[0], pairs[1], 0x88) + _mm512_shuffle_ps(pairs[0], pairs[1], 0xdd);
}
#elif defined(__AVX2__)
GHOST_INLINE F32 sum_each(const F32* v) {
  F32 halves[4];
  for (int e = 0; e < 4; ++e) {
    halves[e] = _mm256_permute2f128_ps(v[e], v[4 + e], 0x20) + _mm256_permute2f128_ps(v[e], v[4 + e], 0x31);
  }
  return _mm256_hadd_ps(_mm256_hadd_ps(halves[0], halves[1]), _mm256_hadd_ps(halves[2], halves[3]));
}
#else
GHOST_INLINE F32 sum_each(const F32* v) {
  const F32 a =
      __builtin_shufflevector(v[0], v[1], 0, 1, 4, 5) + __builtin_shufflevector(v[0], v[1], 2, 3, 6, 7);
  const F32 b =
      __builtin_shufflevector(v[2], v[3], 0, 1, 4, 5) + __builtin_shufflevector(v[2], v[3], 2, 3, 6, 7);
  return __builtin_shufflevector(a, b, 0, 2, 4, 6) + __builtin_shufflevector(a, b, 1, 3, 5, 7);
}
#endif

template <class T>
struct ScanBackward {
  static int64_t scratch(const ScanSlice& slice, int dstate);
  static void run(const ScanSequence<T>&, const ScanSlice&, const T* dy, const float* dlast_state,
                  const float* saved, const ScanGradients<T>&, float* scratch);
};

}  // namespace ghost::GHOST_ISA
