// In-register transposes of square blocks of floats. Included by *_simd.cpp files only, after the rules of
// simd.h.
#pragma once

#include "common/simd.h"

namespace ghost::GHOST_ISA {

// v[i] lane j becomes v[j] lane i, for kWidth vectors. Moves bits only, so any 32-bit data may pass.
#if defined(__AVX512F__)
GHOST_INLINE void transpose(F32* v) {
  F32 s[16];
  for (int g = 0; g < 16; g += 4) {
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(v[g], v[g + 1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(v[g], v[g + 1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(v[g + 2], v[g + 3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(v[g + 2], v[g + 3]));
    s[g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    s[g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    s[g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    s[g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  for (int e = 0; e < 4; ++e) {
    const F32 even_low = _mm512_shuffle_f32x4(s[e], s[4 + e], 0x88);
    const F32 even_high = _mm512_shuffle_f32x4(s[8 + e], s[12 + e], 0x88);
    const F32 odd_low = _mm512_shuffle_f32x4(s[e], s[4 + e], 0xdd);
    const F32 odd_high = _mm512_shuffle_f32x4(s[8 + e], s[12 + e], 0xdd);
    v[e] = _mm512_shuffle_f32x4(even_low, even_high, 0x88);
    v[4 + e] = _mm512_shuffle_f32x4(odd_low, odd_high, 0x88);
    v[8 + e] = _mm512_shuffle_f32x4(even_low, even_high, 0xdd);
    v[12 + e] = _mm512_shuffle_f32x4(odd_low, odd_high, 0xdd);
  }
}
#elif defined(__AVX2__)
GHOST_INLINE void transpose(F32* v) {
  F32 s[8];
  for (int g = 0; g < 8; g += 4) {
    const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(v[g], v[g + 1]));
    const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(v[g], v[g + 1]));
    const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(v[g + 2], v[g + 3]));
    const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(v[g + 2], v[g + 3]));
    s[g] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
    s[g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
    s[g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
    s[g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
  }
  for (int e = 0; e < 4; ++e) {
    v[e] = _mm256_permute2f128_ps(s[e], s[4 + e], 0x20);
    v[4 + e] = _mm256_permute2f128_ps(s[e], s[4 + e], 0x31);
  }
}
#else
GHOST_INLINE void transpose(F32* v) {
  const F32 a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5);
  const F32 b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
  const F32 c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5);
  const F32 d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
  v[0] = __builtin_shufflevector(a, c, 0, 1, 4, 5);
  v[1] = __builtin_shufflevector(a, c, 2, 3, 6, 7);
  v[2] = __builtin_shufflevector(b, d, 0, 1, 4, 5);
  v[3] = __builtin_shufflevector(b, d, 2, 3, 6, 7);
}
#endif

// totals[i] = the sum over the lanes of v[i]: four at once take half the shuffles of one after the other.
GHOST_INLINE void sum_four(const F32* v, float* totals) {
#if defined(__AVX512F__)
  const F32 a = _mm512_shuffle_f32x4(v[0], v[1], 0x44) + _mm512_shuffle_f32x4(v[0], v[1], 0xee);
  const F32 b = _mm512_shuffle_f32x4(v[2], v[3], 0x44) + _mm512_shuffle_f32x4(v[2], v[3], 0xee);
  const F32 quarters = _mm512_shuffle_f32x4(a, b, 0x88) + _mm512_shuffle_f32x4(a, b, 0xdd);
  const F32 pairs = quarters + _mm512_permute_ps(quarters, 0x4e);
  const F32 sums = pairs + _mm512_permute_ps(pairs, 0xb1);
  const __m512i lanes = _mm512_setr_epi32(0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0);
  _mm_storeu_ps(totals, _mm512_castps512_ps128(_mm512_permutexvar_ps(lanes, sums)));
#else
  for (int i = 0; i < 4; ++i) totals[i] = sum(v[i]);
#endif
}

}  // namespace ghost::GHOST_ISA
