// Decoding of two-bit codes. Included by *_simd.cpp files only, after the rules of simd.h.
#pragma once

#include "common/coded_matrix.h"
#include "common/simd.h"

namespace ghost::GHOST_ISA {

#if defined(__AVX512F__)
using Words = __m512i;  // kWidth code words
GHOST_INLINE Words words_of(F32 bits) { return _mm512_castps_si512(bits); }
// Lane i: level `code j of word i` of the codebook (c0, c1, c2, c3)[i], every lane with its own.
GHOST_INLINE F32 select_level(Words w, int j, const F32* c) {
  const __mmask16 low = _mm512_test_epi32_mask(w, _mm512_set1_epi32(static_cast<int>(1u << (2 * j))));
  const __mmask16 high = _mm512_test_epi32_mask(w, _mm512_set1_epi32(static_cast<int>(2u << (2 * j))));
  return _mm512_mask_mov_ps(_mm512_mask_mov_ps(c[0], low, c[1]), high, _mm512_mask_mov_ps(c[2], low, c[3]));
}
// Codes [first, first + kWidth) of one word through one codebook.
GHOST_INLINE F32 decode_run(uint32_t word, int, const float* codebook) {
  const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512 table = _mm512_broadcast_f32x4(_mm_loadu_ps(codebook));
  return _mm512_permutevar_ps(table, _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(word)), shifts));
}
#elif defined(__AVX2__)
using Words = __m256i;
GHOST_INLINE Words words_of(F32 bits) { return _mm256_castps_si256(bits); }
GHOST_INLINE F32 select_level(Words w, int j, const F32* c) {
  const F32 low = _mm256_castsi256_ps(_mm256_sll_epi32(w, _mm_cvtsi32_si128(31 - 2 * j)));
  const F32 high = _mm256_castsi256_ps(_mm256_sll_epi32(w, _mm_cvtsi32_si128(30 - 2 * j)));
  return _mm256_blendv_ps(_mm256_blendv_ps(c[0], c[1], low), _mm256_blendv_ps(c[2], c[3], low), high);
}
GHOST_INLINE F32 decode_run(uint32_t word, int first_code, const float* codebook) {
  const __m256i shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
  const __m256 table = _mm256_broadcast_ps(reinterpret_cast<const __m128*>(codebook));
  const __m256i codes =
      _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word >> (2 * first_code))), shifts);
  return _mm256_permutevar_ps(table, codes);
}
#else
using Words = I32;
GHOST_INLINE Words words_of(F32 bits) { return (I32)bits; }
GHOST_INLINE F32 select_level(Words w, int j, const F32* c) {
  const I32 low = (w << (31 - 2 * j)) >> 31;
  const I32 high = (w << (30 - 2 * j)) >> 31;
  return choose(high, choose(low, c[3], c[2]), choose(low, c[1], c[0]));
}
GHOST_INLINE F32 decode_run(uint32_t word, int first_code, const float* codebook) {
  const uint32_t w = word >> (2 * first_code);
  return F32{codebook[w & 3u], codebook[(w >> 2) & 3u], codebook[(w >> 4) & 3u], codebook[(w >> 6) & 3u]};
}
#endif

}  // namespace ghost::GHOST_ISA
