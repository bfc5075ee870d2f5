#include "common/roofline_kernels.h"
#include "common/simd.h"

namespace ghost::GHOST_ISA {
namespace {

// Independent sums that hide the latency of two units of four cycles, and fit 16 registers with their
// factors. Every loop over them is unrolled, so that they stay in registers.
constexpr int kSums = 12;

float multiply_f32(int64_t steps) {
  F32 sums[kSums];
#pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) sums[i] = splat(static_cast<float>(i));
  const F32 a = splat(0.999f), b = splat(0.001f);
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) sums[i] = fma(sums[i], a, b);
  }
#pragma GCC unroll 12
  for (int i = 1; i < kSums; ++i) sums[0] = sums[0] + sums[i];
  return sum(sums[0]);
}

// Eight vectors at a time: enough loads in flight to be bound by the memory.
float read(const float* data, int64_t n) {
  constexpr int kVectors = 8;
  F32 sums[kVectors];
  for (int i = 0; i < kVectors; ++i) sums[i] = splat(0.0f);
  for (int64_t at = 0; at + kVectors * kWidth <= n; at += kVectors * kWidth) {
#pragma GCC unroll 8
    for (int i = 0; i < kVectors; ++i) sums[i] = sums[i] + load(data + at + i * kWidth);
  }
  for (int i = 1; i < kVectors; ++i) sums[0] = sums[0] + sums[i];
  return sum(sums[0]);
}

#if defined(__AVX512BF16__)

float multiply_bf16(int64_t steps) {
  __m512 sums[kSums];
#  pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) sums[i] = splat(static_cast<float>(i));
  const __m512bh a = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3f80));  // 1
  const __m512bh b = reinterpret_cast<__m512bh>(_mm512_set1_epi16(0x3580));  // 2^-20
  for (int64_t step = 0; step < steps; ++step) {
#  pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_dpbf16_ps(sums[i], a, b);
      __asm__("" : "+v"(sums[i]));  // in place: GCC's copies would take the slots of multiplications
    }
  }
#  pragma GCC unroll 12
  for (int i = 1; i < kSums; ++i) sums[0] = sums[0] + sums[i];
  return sum(sums[0]);
}

#else

constexpr float (*multiply_bf16)(int64_t) = nullptr;

#endif

#if defined(__AVX512VNNI__)

float multiply_int8(int64_t steps) {
  __m512i sums[kSums];
#  pragma GCC unroll 12
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_epi32(i);
  const __m512i a = _mm512_set1_epi8(1), b = _mm512_set1_epi8(1);
  for (int64_t step = 0; step < steps; ++step) {
#  pragma GCC unroll 12
    for (int i = 0; i < kSums; ++i) {
      sums[i] = _mm512_dpbusd_epi32(sums[i], a, b);
      __asm__("" : "+v"(sums[i]));  // as above
    }
  }
#  pragma GCC unroll 12
  for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
  return static_cast<float>(sum(sums[0]));
}

#else

constexpr float (*multiply_int8)(int64_t) = nullptr;

#endif

}  // namespace

extern const RooflineKernels roofline_table{
    multiply_f32,           multiply_bf16,          multiply_int8, 2 * kSums * kWidth,
    2 * kSums * 2 * kWidth, 2 * kSums * 4 * kWidth, read};

}  // namespace ghost::GHOST_ISA
