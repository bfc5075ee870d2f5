#include "codebook_matmul/codebook_matmul_kernels.h"
#include "common/decode_simd.h"

namespace ghost::GHOST_ISA {
namespace {

constexpr int kRuns = 16 / kWidth;  // vectors of codes in a word

#if defined(__AVX512F__)

void bucket_sum(const uint32_t* codes, const float* values, int64_t words, float* sums) {
  const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  F32 total[4];
  for (int c = 0; c < 4; ++c) total[c] = splat(0.0f);
  for (int64_t i = 0; i < words; ++i) {
    const __m512i w = _mm512_srlv_epi32(_mm512_set1_epi32(static_cast<int>(codes[i])), shifts);
    const __mmask16 low = _mm512_test_epi32_mask(w, _mm512_set1_epi32(1));
    const __mmask16 high = _mm512_test_epi32_mask(w, _mm512_set1_epi32(2));
    const F32 v = load(values + 16 * i);
    total[0] = _mm512_mask_add_ps(total[0], _knot_mask16(_kor_mask16(low, high)), total[0], v);
    total[1] = _mm512_mask_add_ps(total[1], _kandn_mask16(high, low), total[1], v);
    total[2] = _mm512_mask_add_ps(total[2], _kandn_mask16(low, high), total[2], v);
    total[3] = _mm512_mask_add_ps(total[3], _kand_mask16(low, high), total[3], v);
  }
  for (int c = 0; c < 4; ++c) sums[c] += sum(total[c]);
}

GHOST_INLINE uint32_t nearest(const float* values, const float* levels) {
  const F32 v = load(values);
  F32 best = abs(v - splat(levels[0]));
  uint32_t low = 0;
  uint32_t high = 0;
  for (uint32_t c = 1; c < 4; ++c) {
    const F32 distance = abs(v - splat(levels[c]));
    const uint32_t nearer = _cvtmask16_u32(_mm512_cmp_ps_mask(distance, best, _CMP_LT_OQ));
    best = _mm512_min_ps(distance, best);
    low = (low & ~nearer) | (c & 1u ? nearer : 0u);
    high = (high & ~nearer) | (c & 2u ? nearer : 0u);
  }
  return _pdep_u32(low, 0x55555555u) | _pdep_u32(high, 0xaaaaaaaau);
}

#elif defined(__AVX2__)

GHOST_INLINE __m256i codes_of(uint32_t word, int run) {
  const __m256i shifts = _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14);
  const __m256i w = _mm256_srlv_epi32(_mm256_set1_epi32(static_cast<int>(word >> (16 * run))), shifts);
  return _mm256_and_si256(w, _mm256_set1_epi32(3));
}

void bucket_sum(const uint32_t* codes, const float* values, int64_t words, float* sums) {
  F32 total[4];
  for (int c = 0; c < 4; ++c) total[c] = splat(0.0f);
  for (int64_t i = 0; i < words * kRuns; ++i) {
    const __m256i w = codes_of(codes[i / kRuns], static_cast<int>(i % kRuns));
    const F32 v = load(values + kWidth * i);
    for (int c = 0; c < 4; ++c) {
      const __m256i here = _mm256_cmpeq_epi32(w, _mm256_set1_epi32(c));
      total[c] = total[c] + _mm256_and_ps(v, _mm256_castsi256_ps(here));
    }
  }
  for (int c = 0; c < 4; ++c) sums[c] += sum(total[c]);
}

GHOST_INLINE uint32_t nearest(const float* values, const float* levels) {
  uint32_t low = 0;
  uint32_t high = 0;
  for (int run = 0; run < kRuns; ++run) {
    const F32 v = load(values + run * kWidth);
    F32 best = abs(v - splat(levels[0]));
    uint32_t l = 0;
    uint32_t h = 0;
    for (uint32_t c = 1; c < 4; ++c) {
      const F32 distance = abs(v - splat(levels[c]));
      const F32 mask = _mm256_cmp_ps(distance, best, _CMP_LT_OQ);
      const uint32_t nearer = static_cast<uint32_t>(_mm256_movemask_ps(mask));
      best = _mm256_min_ps(distance, best);
      l = (l & ~nearer) | (c & 1u ? nearer : 0u);
      h = (h & ~nearer) | (c & 2u ? nearer : 0u);
    }
    low |= l << (run * kWidth);
    high |= h << (run * kWidth);
  }
  return _pdep_u32(low, 0x55555555u) | _pdep_u32(high, 0xaaaaaaaau);
}

#else

void bucket_sum(const uint32_t* codes, const float* values, int64_t words, float* sums) {
  F32 total[4];
  for (int c = 0; c < 4; ++c) total[c] = splat(0.0f);
  for (int64_t i = 0; i < words * kRuns; ++i) {
    const int32_t w = static_cast<int32_t>(codes[i / kRuns] >> (8 * (i % kRuns)));
    const I32 index = I32{w, w >> 2, w >> 4, w >> 6} & 3;
    const F32 v = load(values + kWidth * i);
    for (int c = 0; c < 4; ++c) total[c] = total[c] + choose(index == c, v, splat(0.0f));
  }
  for (int c = 0; c < 4; ++c) sums[c] += sum(total[c]);
}

GHOST_INLINE uint32_t nearest(const float* values, const float* levels) {
  uint32_t word = 0;
  for (int run = 0; run < kRuns; ++run) {
    const F32 v = load(values + run * kWidth);
    F32 best = abs(v - splat(levels[0]));
    I32 index{};
    for (int c = 1; c < 4; ++c) {
      const F32 distance = abs(v - splat(levels[c]));
      const I32 nearer = distance < best;
      best = choose(nearer, distance, best);
      index = (index & ~nearer) | (nearer & c);
    }
    for (int i = 0; i < kWidth; ++i) word |= static_cast<uint32_t>(index[i]) << (2 * (run * kWidth + i));
  }
  return word;
}

#endif

void assign(const float* values, const float* levels, int64_t words, uint32_t* codes) {
  for (int64_t i = 0; i < words; ++i) codes[i] = nearest(values + 16 * i, levels);
}

template <class T>
void dequantize(const uint32_t* codes, const float* codebooks, int64_t groups, int64_t words, T* values) {
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t i = g * words; i < (g + 1) * words; ++i) {
      for (int run = 0; run < 16; run += kWidth) {
        store(values + 16 * i + run, decode_run(codes[i], run, codebooks + 4 * g));
      }
    }
  }
}

template <class T>
constexpr CodebookDecodeKernels<T> decode_kernels{dequantize<T>};

}  // namespace

extern const CodebookKernels codebook_table{bucket_sum, assign};
extern const CodebookDecodeTable codebook_decode_table{decode_kernels<float>, decode_kernels<float16>,
                                                       decode_kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
