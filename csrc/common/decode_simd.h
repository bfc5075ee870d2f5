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
// Lane i: the level named by the low two bits of word i, from the four in its 128-bit quarter of `table`.
GHOST_INLINE F32 look_up(F32 table, Words w) { return _mm512_permutevar_ps(table, w); }
GHOST_INLINE Words shift_codes(Words w, int codes) {
  return _mm512_srli_epi32(w, static_cast<unsigned>(2 * codes));
}
GHOST_INLINE F32 broadcast_levels(const float* codebook) {
  return _mm512_broadcast_f32x4(_mm_loadu_ps(codebook));
}
GHOST_INLINE F32 keep_first(F32 v, int n) { return _mm512_maskz_mov_ps(first(n), v); }
// Words 0 and 1 of every quarter from a, words 2 and 3 from b.
GHOST_INLINE F32 join_halves(F32 a, F32 b) { return _mm512_mask_mov_ps(a, 0xcccc, b); }
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
GHOST_INLINE F32 look_up(F32 table, Words w) { return _mm256_permutevar_ps(table, w); }
GHOST_INLINE Words shift_codes(Words w, int codes) { return _mm256_srli_epi32(w, 2 * codes); }
GHOST_INLINE F32 broadcast_levels(const float* codebook) {
  return _mm256_broadcast_ps(reinterpret_cast<const __m128*>(codebook));
}
GHOST_INLINE F32 keep_first(F32 v, int n) { return _mm256_and_ps(v, _mm256_castsi256_ps(first(n))); }
GHOST_INLINE F32 join_halves(F32 a, F32 b) { return _mm256_blend_ps(a, b, 0xcc); }
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
#  if defined(GHOST_ISA_neon)
GHOST_INLINE F32 look_up(F32 table, Words w) {
  // Byte k of a lane comes from byte 4 * code + k of the table.
  const I32 bytes = (w & 3) * 0x04040404 + 0x03020100;
  return (F32)vqtbl1q_u8((uint8x16_t)table, (uint8x16_t)bytes);
}
#  else
GHOST_INLINE F32 look_up(F32 table, Words w) {
  const I32 low = (w << 31) >> 31;
  const I32 high = (w << 30) >> 31;
  return choose(high, choose(low, splat(table[3]), splat(table[2])),
                choose(low, splat(table[1]), splat(table[0])));
}
#  endif
GHOST_INLINE Words shift_codes(Words w, int codes) { return w >> (2 * codes); }
GHOST_INLINE F32 broadcast_levels(const float* codebook) { return load(codebook); }
GHOST_INLINE F32 keep_first(F32 v, int n) {
  const I32 lane = I32{0, 1, 2, 3};
  return choose(lane < n, v, splat(0.0f));
}
GHOST_INLINE F32 join_halves(F32 a, F32 b) { return __builtin_shufflevector(a, b, 0, 1, 6, 7); }
#endif

// How the codebooks of a row lie in a vector of words, a quarter of 4 words being 64 codes.
enum class Tables {
  uniform,   // one codebook for the vector
  quarters,  // one a quarter or two: groups of 64 or 128
  halves,    // two a quarter: groups of 32
};

// The codebooks of one vector of words.
template <Tables kind>
struct Levels {
  F32 a;
  F32 b;  // halves only

  static F32 quarters_of(const float* codebook, int64_t first_code, int64_t columns, int64_t group_size) {
    // Quarters past the last column take the last one's codebook.
    alignas(64) float gathered[kWidth];
    for (int q = 0; q < kWidth / 4; ++q) {
      const int64_t code = min_of<int64_t>(first_code + 64 * q, columns - 16);
      for (int c = 0; c < 4; ++c) gathered[4 * q + c] = codebook[4 * (code / group_size) + c];
    }
    return load(gathered);
  }

  void read(const float* codebook, int64_t first_code, const CodedMatrix& w) {
    if constexpr (kind == Tables::uniform) {
      a = b = broadcast_levels(codebook);
      return;
    }
    const int64_t past = w.columns - first_code;  // columns from here on
    if constexpr (kind == Tables::quarters) {
#if defined(__AVX512F__)
      if (past >= 256) {
        a = w.group_size == 64
                ? load(codebook + first_code / 16)
                : _mm512_shuffle_f32x4(_mm512_castps256_ps512(_mm256_loadu_ps(codebook + first_code / 32)),
                                       _mm512_castps256_ps512(_mm256_loadu_ps(codebook + first_code / 32)),
                                       0x50);
        return;
      }
#elif defined(__AVX2__)
      if (past >= 128) {
        a = w.group_size == 64 ? load(codebook + first_code / 16)
                               : broadcast_levels(codebook + first_code / 32);
        return;
      }
#endif
      static_cast<void>(past);
      a = quarters_of(codebook, first_code, w.columns, w.group_size);
    }
    if constexpr (kind == Tables::halves) {
#if defined(__AVX512F__)
      if (past >= 256) {
        const F32 lower = load(codebook + first_code / 8);
        const F32 upper = load(codebook + first_code / 8 + 16);
        a = _mm512_shuffle_f32x4(lower, upper, 0x88);
        b = _mm512_shuffle_f32x4(lower, upper, 0xdd);
        return;
      }
#endif
      static_cast<void>(past);
      a = quarters_of(codebook, first_code, w.columns, w.group_size);
      b = quarters_of(codebook, first_code + 32, w.columns, w.group_size);
    }
  }

  F32 look(Words w) const {
    if constexpr (kind == Tables::halves) return join_halves(look_up(a, w), look_up(b, w));
    return look_up(a, w);
  }
};

template <class Body>
inline void with_tables(const CodedMatrix& w, Body&& body) {
  if (w.groups() == 1) {
    body.template operator()<Tables::uniform>();
  } else if (w.group_size == 32) {
    body.template operator()<Tables::halves>();
  } else {
    body.template operator()<Tables::quarters>();
  }
}

}  // namespace ghost::GHOST_ISA
