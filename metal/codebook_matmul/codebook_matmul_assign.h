#pragma once

#include <metal_simdgroup>
#include <metal_stdlib>

#include "codebook_matmul/buckets.h"
#include "codebook_matmul/decode_byte.h"
#include "codebook_matmul/params.h"
#include "common/unroll.h"

using namespace metal;

// Kernels that go through a weight once, between its values and its codes. A SIMD-group takes 32 words (512
// weights) in four steps of 8: at step j its lane l has the four values 4 (l % 4) of word 8 j + l / 4, so
// that a step loads or stores 512 neighbouring bytes of float32, and the 32 words are one access of 128
// bytes.
constant constexpr int kWordSteps = 4;
constant constexpr int kWordSimdgroups = CodebookMatmulLayout::word_groups;

METAL_FUNC int word_of_step(int step, uint lane) { return 8 * step + int(lane) / 4; }

METAL_FUNC float4 load_four(const device float* from, bool vectors) {
  return vectors ? *(const device float4*)from : float4(from[0], from[1], from[2], from[3]);
}

// Codes of four values, in eight bits: the first of levels equally near, and 0 for NaN.
METAL_FUNC uint nearest_codes(float4 values, float4 levels) {
  uint codes = 0u;
  GHOST_UNROLL
  for (int i = 0; i < 4; ++i) {
    float best = abs(values[i] - levels.x);
    uint code = 0u;
    GHOST_UNROLL
    for (int c = 1; c < 4; ++c) {
      const float distance = abs(values[i] - levels[c]);
      const bool nearer = distance < best;
      best = nearer ? distance : best;
      code = nearer ? uint(c) : code;
    }
    codes |= code << (2 * i);
  }
  return codes;
}

// Byte j of the result in lane l is byte l % 4 of lane j of the same four: a 4 x 4 transpose in two
// exchanges.
METAL_FUNC uint transpose_bytes(uint bytes, uint lane) {
  const uint one = simd_shuffle_xor(bytes, 1);
  bytes = (lane & 1u) != 0u ? ((one >> 8u) & 0x00ff00ffu) | (bytes & 0xff00ff00u)
                            : (bytes & 0x00ff00ffu) | ((one & 0x00ff00ffu) << 8u);
  const uint two = simd_shuffle_xor(bytes, 2);
  return (lane & 2u) != 0u ? (two >> 16u) | (bytes & 0xffff0000u) : (bytes & 0x0000ffffu) | (two << 16u);
}

// Threadgroups ceil(words / 256) of 256 threads.
[[kernel]] void codebook_assign_float32(const device float* weight [[buffer(0)]],
                                        const device float* codebook [[buffer(1)]],
                                        device uint* codes [[buffer(2)]],
                                        constant CodebookWordsParams& p [[buffer(3)]],
                                        uint3 group [[threadgroup_position_in_grid]],
                                        uint lane [[thread_index_in_simdgroup]],
                                        uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const int first = (int(group.x) * kWordSimdgroups + int(simdgroup)) * 32;
  if (first >= p.words) return;
  float4 values[kWordSteps];
  GHOST_UNROLL
  for (int j = 0; j < kWordSteps; ++j) {
    const int word = first + word_of_step(j, lane);
    const device float* from = weight + size_t(word) * 16 + 4 * (lane & 3u);
    values[j] = word < p.words ? load_four(from, p.weight_vectors != 0) : float4(0.0f);
  }
  uint bytes = 0u;
  GHOST_UNROLL
  for (int j = 0; j < kWordSteps; ++j) {
    const int word = min(first + word_of_step(j, lane), p.words - 1);
    const float4 levels = load_four(codebook + 4 * (word / p.group_words), p.codebook_vectors != 0);
    bytes |= nearest_codes(values[j], levels) << (8 * j);
  }
  const int word = first + word_of_step(int(lane & 3u), lane);
  const uint transposed = transpose_bytes(bytes, lane);
  if (word < p.words) codes[word] = transposed;
}

// Threadgroups ceil(words / 256) of 256 threads.
template <typename T>
[[kernel]] void codebook_dequantize(const device uint* codes [[buffer(0)]],
                                    const device float* codebook [[buffer(1)]],
                                    device T* weight [[buffer(2)]],
                                    constant CodebookWordsParams& p [[buffer(3)]],
                                    uint3 group [[threadgroup_position_in_grid]],
                                    uint lane [[thread_index_in_simdgroup]],
                                    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const int first = (int(group.x) * kWordSimdgroups + int(simdgroup)) * 32;
  if (first >= p.words) return;
  const uint mine = first + int(lane) < p.words ? codes[first + int(lane)] : 0u;
  float4 levels[kWordSteps];
  GHOST_UNROLL
  for (int j = 0; j < kWordSteps; ++j) {
    const int word = min(first + word_of_step(j, lane), p.words - 1);
    levels[j] = load_four(codebook + 4 * (word / p.group_words), p.codebook_vectors != 0);
  }
  GHOST_UNROLL
  for (int j = 0; j < kWordSteps; ++j) {
    const uint four = simd_shuffle(mine, ushort(word_of_step(j, lane))) >> (8u * (lane & 3u));
    const int word = first + word_of_step(j, lane);
    device T* to = weight + size_t(word) * 16 + 4 * (lane & 3u);
    const float4 values = decode_byte(four, levels[j]);
    if (word < p.words)
      *(device vec<T, 4>*)to = vec<T, 4>(T(values.x), T(values.y), T(values.z), T(values.w));
  }
}

// out[n][group][code], sums of dw over equal codes. A SIMD-group takes a row; with GROUPED, groups of 32, 64
// or 128 columns end within a step. Threadgroups ceil(N / 8) of 256 threads.
template <bool GROUPED>
[[kernel]] void bucket_sum(const device float* dw [[buffer(0)]], const device uint* codes [[buffer(1)]],
                           device float* out [[buffer(2)]], constant BucketSumParams& p [[buffer(3)]],
                           uint3 group [[threadgroup_position_in_grid]],
                           uint lane [[thread_index_in_simdgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const int n = int(group.x) * kWordSimdgroups + int(simdgroup);
  if (n >= p.N) return;
  const device float* row = dw + size_t(n) * p.row_words * 16;
  const device uint* row_codes = codes + size_t(n) * p.row_words;
  float4 total = float4(0.0f);
  for (int first = 0; first < p.row_words; first += 32) {
    const uint mine = first + int(lane) < p.row_words ? row_codes[first + int(lane)] : 0u;
    float4 values[kWordSteps];
    GHOST_UNROLL
    for (int j = 0; j < kWordSteps; ++j) {
      const int word = first + word_of_step(j, lane);
      const device float* from = row + size_t(word) * 16 + 4 * (lane & 3u);
      values[j] = word < p.row_words ? load_four(from, p.vectors != 0) : float4(0.0f);
    }
    GHOST_UNROLL
    for (int j = 0; j < kWordSteps; ++j) {
      const uint four = simd_shuffle(mine, ushort(word_of_step(j, lane))) >> (8u * (lane & 3u));
      float4 sums = float4(0.0f);
      add_to_buckets(four, values[j], sums);
      if (GROUPED) {
        float sum = share_buckets<2, 1>(sums, lane);
        sum += simd_shuffle_xor(sum, 4);
        if (p.group_words >= 4) sum += simd_shuffle_xor(sum, 8);
        if (p.group_words == 8) sum += simd_shuffle_xor(sum, 16);
        const int word = first + word_of_step(j, lane);
        if (word < p.row_words && word % p.group_words == 0) {
          const int groups = p.row_words / p.group_words;
          out[4 * (size_t(n) * groups + word / p.group_words) + (lane & 3u)] = sum;
        }
      } else {
        total += sums;
      }
    }
  }
  if (!GROUPED) {
    float sum = share_buckets<2, 1>(total, lane);
    sum += simd_shuffle_xor(sum, 4);
    sum += simd_shuffle_xor(sum, 8);
    sum += simd_shuffle_xor(sum, 16);
    if (lane < 4u) out[4 * size_t(n) + lane] = sum;
  }
}
