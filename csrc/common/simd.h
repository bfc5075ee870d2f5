// The vector vocabulary of the inner kernels. Included only by *_simd.cpp files, which are compiled once per
// instruction set with GHOST_ISA naming the namespace; everything here has internal linkage or lives in that
// namespace, so that no function built for a newer CPU can be linked into the path of an older one. For the
// same reason kernels use no standard library templates.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#  include <immintrin.h>
#elif defined(__ARM_NEON)
#  include <arm_neon.h>
#endif

#include "common/half.h"

#define GHOST_INLINE static inline __attribute__((always_inline))

namespace ghost::GHOST_ISA {

template <class T>
GHOST_INLINE constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}
template <class T>
GHOST_INLINE constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}

#if defined(__AVX512F__)

constexpr int kWidth = 16;  // floats per vector
using F32 = __m512;
GHOST_INLINE F32 splat(float x) { return _mm512_set1_ps(x); }
GHOST_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
GHOST_INLINE void store(float* p, F32 v) { _mm512_storeu_ps(p, v); }
GHOST_INLINE __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
GHOST_INLINE F32 load_n(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
GHOST_INLINE void store_n(float* p, F32 v, int n) { _mm512_mask_storeu_ps(p, first(n), v); }
GHOST_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }
// The second operand wins when either is NaN, so a NaN in x passes through max(bound, x).
GHOST_INLINE F32 max(F32 bound, F32 x) { return _mm512_max_ps(bound, x); }
GHOST_INLINE F32 min(F32 bound, F32 x) { return _mm512_min_ps(bound, x); }
GHOST_INLINE F32 abs(F32 x) { return _mm512_abs_ps(x); }
GHOST_INLINE F32 sqrt(F32 x) { return _mm512_sqrt_ps(x); }
GHOST_INLINE F32 round_even(F32 x) {
  return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
GHOST_INLINE F32 select_gt(F32 a, F32 b, F32 yes, F32 no) {
  return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), yes);
}
GHOST_INLINE F32 scale_by_power_of_two(F32 x, F32 n) { return _mm512_scalef_ps(x, n); }
GHOST_INLINE float sum(F32 v) { return _mm512_reduce_add_ps(v); }
// Modulo 2^32, where _mm512_reduce_add_epi32 ends with an addition of ints that must not overflow.
GHOST_INLINE int32_t sum(__m512i v) {
  const __m256i quarters = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(quarters), _mm256_extracti128_si256(quarters, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}
GHOST_INLINE float max_lane(F32 v) { return _mm512_reduce_max_ps(v); }
GHOST_INLINE F32 load(const float16* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
GHOST_INLINE void store(float16* p, F32 v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
GHOST_INLINE F32 load(const bfloat16* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
GHOST_INLINE void store(bfloat16* p, F32 v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
  rounded = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), _mm512_set1_epi32(0x7fc0));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(rounded));
}

#elif defined(__AVX2__)

constexpr int kWidth = 8;
using F32 = __m256;
GHOST_INLINE F32 splat(float x) { return _mm256_set1_ps(x); }
GHOST_INLINE F32 load(const float* p) { return _mm256_loadu_ps(p); }
GHOST_INLINE void store(float* p, F32 v) { _mm256_storeu_ps(p, v); }
GHOST_INLINE __m256i first(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
GHOST_INLINE F32 load_n(const float* p, int n) { return _mm256_maskload_ps(p, first(n)); }
GHOST_INLINE void store_n(float* p, F32 v, int n) { _mm256_maskstore_ps(p, first(n), v); }
GHOST_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm256_fmadd_ps(a, b, c); }
GHOST_INLINE F32 max(F32 bound, F32 x) { return _mm256_max_ps(bound, x); }
GHOST_INLINE F32 min(F32 bound, F32 x) { return _mm256_min_ps(bound, x); }
GHOST_INLINE F32 abs(F32 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }
GHOST_INLINE F32 sqrt(F32 x) { return _mm256_sqrt_ps(x); }
GHOST_INLINE F32 round_even(F32 x) {
  return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
GHOST_INLINE F32 select_gt(F32 a, F32 b, F32 yes, F32 no) {
  return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
GHOST_INLINE F32 scale_by_power_of_two(F32 x, F32 n) {  // -126 <= n <= 127
  const __m256i exponent =
      _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(x, _mm256_castsi256_ps(exponent));
}
GHOST_INLINE float sum(F32 v) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
GHOST_INLINE float max_lane(F32 v) {
  __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_max_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
GHOST_INLINE F32 load(const float16* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
GHOST_INLINE void store(float16* p, F32 v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
GHOST_INLINE F32 load(const bfloat16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
GHOST_INLINE void store(bfloat16* p, F32 v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff))), 16);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  rounded = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc0), nan);
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(rounded, rounded), 0x08);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
}

#else  // four floats as compiler vectors: SSE2 on any x86-64, NEON on any arm64

constexpr int kWidth = 4;
typedef float F32 __attribute__((vector_size(16)));
typedef int32_t I32 __attribute__((vector_size(16)));
GHOST_INLINE F32 splat(float x) { return F32{x, x, x, x}; }
GHOST_INLINE F32 load(const float* p) {
  F32 v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
GHOST_INLINE void store(float* p, F32 v) { std::memcpy(p, &v, sizeof(v)); }
GHOST_INLINE F32 load_n(const float* p, int n) {
  F32 v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
}
GHOST_INLINE void store_n(float* p, F32 v, int n) {
  for (int i = 0; i < n; ++i) p[i] = v[i];
}
#  if defined(GHOST_ISA_neon)
GHOST_INLINE F32 fma(F32 a, F32 b, F32 c) {
  return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
#  else
GHOST_INLINE F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }
#  endif
GHOST_INLINE F32 choose(I32 mask, F32 yes, F32 no) { return (F32)((mask & (I32)yes) | (~mask & (I32)no)); }
GHOST_INLINE F32 max(F32 bound, F32 x) { return choose(bound > x, bound, x); }
GHOST_INLINE F32 min(F32 bound, F32 x) { return choose(bound < x, bound, x); }
GHOST_INLINE F32 abs(F32 x) { return (F32)((I32)x & I32{0x7fffffff, 0x7fffffff, 0x7fffffff, 0x7fffffff}); }
GHOST_INLINE F32 sqrt(F32 x) {
  return F32{std::sqrt(x[0]), std::sqrt(x[1]), std::sqrt(x[2]), std::sqrt(x[3])};
}
GHOST_INLINE F32 round_even(F32 x) {  // exact for |x| < 2^22: adding 1.5 * 2^23 pushes the fraction out
  const F32 magic = splat(12582912.0f);
  F32 shifted = x + magic;
  // Keeps the compiler from cancelling the two additions.
#  if defined(__x86_64__)
  __asm__("" : "+x"(shifted));
#  else
  __asm__("" : "+w"(shifted));
#  endif
  return shifted - magic;
}
GHOST_INLINE F32 select_gt(F32 a, F32 b, F32 yes, F32 no) { return choose(a > b, yes, no); }
GHOST_INLINE F32 scale_by_power_of_two(F32 x, F32 n) {  // -126 <= n <= 127
  const I32 exponent = __builtin_convertvector(n, I32) + 127;
  return x * (F32)(exponent << 23);
}
GHOST_INLINE float sum(F32 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
GHOST_INLINE float max_lane(F32 v) { return max_of(max_of(v[0], v[1]), max_of(v[2], v[3])); }
GHOST_INLINE F32 load(const float16* p) {
  return F32{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
GHOST_INLINE void store(float16* p, F32 v) {
  for (int i = 0; i < 4; ++i) p[i] = to_float16(v[i]);
}
GHOST_INLINE F32 load(const bfloat16* p) {
  return F32{to_float(p[0]), to_float(p[1]), to_float(p[2]), to_float(p[3])};
}
GHOST_INLINE void store(bfloat16* p, F32 v) {
  for (int i = 0; i < 4; ++i) p[i] = to_bfloat16(v[i]);
}

#endif

// Scalar forms, so that one kernel template serves every element type.
GHOST_INLINE float load1(const float* p) { return *p; }
GHOST_INLINE float load1(const float16* p) { return to_float(*p); }
GHOST_INLINE float load1(const bfloat16* p) { return to_float(*p); }
GHOST_INLINE void store1(float* p, float v) { *p = v; }
GHOST_INLINE void store1(float16* p, float v) { *p = to_float16(v); }
GHOST_INLINE void store1(bfloat16* p, float v) { *p = to_bfloat16(v); }

// Tails of half-precision rows go through a small buffer: n < kWidth elements, the rest zero.
template <class T>
GHOST_INLINE F32 load_n(const T* p, int n) {
  T buffer[kWidth] = {};
  for (int i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
template <class T>
GHOST_INLINE void store_n(T* p, F32 v, int n) {
  T buffer[kWidth];
  store(buffer, v);
  for (int i = 0; i < n; ++i) p[i] = buffer[i];
}

// e^x, relative error about 1e-7 (Cephes' polynomial after subtracting n ln 2). Below -87.3 it stays
// at 1.2e-38.
GHOST_INLINE F32 exp(F32 x) {
  x = max(splat(-87.336544f), min(splat(88.376259f), x));
  const F32 n = round_even(x * splat(1.44269504088896341f));
  F32 r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  F32 p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + splat(1.0f));
  return scale_by_power_of_two(p, n);
}

// log(1 + e) for 0 <= e <= 1, as 2 atanh(e / (2 + e)): the series needs only odd powers of s <= 1/3.
GHOST_INLINE F32 log1p_unit(F32 e) {
  const F32 s = e / (e + splat(2.0f));
  const F32 s2 = s * s;
  F32 p = splat(2.0f / 15);
  p = fma(p, s2, splat(2.0f / 13));
  p = fma(p, s2, splat(2.0f / 11));
  p = fma(p, s2, splat(2.0f / 9));
  p = fma(p, s2, splat(2.0f / 7));
  p = fma(p, s2, splat(2.0f / 5));
  p = fma(p, s2, splat(2.0f / 3));
  p = fma(p, s2, splat(2.0f));
  return p * s;
}

GHOST_INLINE F32 sigmoid(F32 x) { return splat(1.0f) / (splat(1.0f) + exp(-x)); }
// Below -88 the sigmoid stops falling (see exp), so x does too: the product is as good as zero there.
GHOST_INLINE F32 silu(F32 x) {
  x = max(splat(-88.0f), x);
  return x * sigmoid(x);
}
// The slope of silu, where the sigmoid s at x is known.
GHOST_INLINE F32 silu_gradient(F32 x, F32 s) { return s * fma(x, splat(1.0f) - s, splat(1.0f)); }
GHOST_INLINE F32 silu_gradient(F32 x) {
  x = max(splat(-88.0f), x);
  return silu_gradient(x, sigmoid(x));
}
// log(1 + e^x), linear above 20 as in the selective-scan literature, where e^-|x| is known.
GHOST_INLINE F32 softplus(F32 x, F32 exp_minus_abs) {
  return select_gt(x, splat(20.0f), x, max(splat(0.0f), x) + log1p_unit(exp_minus_abs));
}
GHOST_INLINE F32 softplus(F32 x) { return softplus(x, exp(-abs(x))); }

}  // namespace ghost::GHOST_ISA
