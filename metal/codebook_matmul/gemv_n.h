#pragma once

#include <metal_simdgroup>

#include "codebook_matmul/chunk.h"
#include "codebook_matmul/decode.h"
#include "codebook_matmul/params.h"

constant constexpr const int kGemvNGroups =
    CodebookMatmulLayout::gemv_n_groups;        // SIMD-groups of a threadgroup: they share its rows
constant constexpr const int kGemvNFlight = 4;  // rows that a SIMD-group has on their way

METAL_FUNC void add_scaled(float v, float4 w, thread float4& sum) {
  sum.x = fma(v, w.x, sum.x);
  sum.y = fma(v, w.y, sum.y);
  sum.z = fma(v, w.z, sum.z);
  sum.w = fma(v, w.w, sum.w);
}

// y = x W for MB rows of x at a time: a lane owns one word, 16 columns of W, and walks down its rows. Rows
// are split over the grid where there are few columns; the splits go to `partial` (splits, M, K) and are
// summed by the next kernel.
// Grid: threadgroups (ceil(K / 512), ceil(M / MB), splits) of (32, kGemvNGroups).
template <typename T, int MB>
[[kernel]] void codebook_matmul_n_gemv(const device T* x [[buffer(0)]],
                                       const device uint* codes [[buffer(1)]],
                                       const device float* codebook [[buffer(2)]], device T* y [[buffer(3)]],
                                       device float* partial [[buffer(4)]],
                                       constant CodebookMatmulParams& p [[buffer(5)]],
                                       uint3 group [[threadgroup_position_in_grid]],
                                       uint lane [[thread_index_in_simdgroup]],
                                       uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int U = kGemvNFlight;
  // By SIMD-group, quarter of a word, word.
  threadgroup float4 shared[kGemvNGroups * 4 * 32];

  const int words = p.K / 16;
  const int word0 = int(group.x) * 32;
  // Lanes after the last word repeat it and store nothing.
  const int word = min(word0 + int(lane), words - 1);
  const int m0 = int(group.y) * MB;
  const int begin = int(group.z) * p.split_rows;
  const int end = min(p.N, begin + p.split_rows);
  const device float* column_codebook = codebook + (by_group ? 4 * ((16 * word) >> p.group_shift) : 0);

  float4 sum[MB][4];
  GHOST_UNROLL
  for (int m = 0; m < MB; ++m) {
    GHOST_UNROLL
    for (int j = 0; j < 4; ++j) sum[m][j] = float4(0.0f);
  }
  for (int n0 = begin + int(simdgroup) * U; n0 < end; n0 += kGemvNGroups * U) {
    uint q[U];
    float4 levels[U];
    float v[MB][U];
    GHOST_UNROLL
    for (int r = 0; r < U; ++r) {
      const int n = n0 + r;
      const bool inside = n < end;
      // Zero times zero levels where there is no row: a level may be infinite.
      q[r] = inside ? codes[size_t(n) * words + word] : 0u;
      levels[r] = inside ? load_levels(column_codebook + size_t(n) * p.codebook_stride) : float4(0.0f);
      GHOST_UNROLL
      for (int m = 0; m < MB; ++m) {
        v[m][r] = inside && m0 + m < p.M ? float(x[size_t(m0 + m) * p.N + n]) : 0.0f;
      }
    }
    GHOST_UNROLL
    for (int r = 0; r < U; ++r) {
      GHOST_UNROLL
      for (int j = 0; j < 4; ++j) {
        const float4 w = decode_byte(q[r] >> (8 * j), levels[r]);
        GHOST_UNROLL
        for (int m = 0; m < MB; ++m) add_scaled(v[m][r], w, sum[m][j]);
      }
    }
  }

  GHOST_UNROLL
  for (int m = 0; m < MB; ++m) {
    GHOST_UNROLL
    for (int j = 0; j < 4; ++j) shared[(int(simdgroup) * 4 + j) * 32 + int(lane)] = sum[m][j];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    // SIMD-group s stores words 8 s to 8 s + 7, four lanes a word, side by side.
    const int own = int(simdgroup) * 8 + int(lane) / 4;
    const int quarter = int(lane) % 4;
    const int from = quarter * 32 + own;
    const float4 total = (shared[from] + shared[from + 128]) + (shared[from + 256] + shared[from + 384]);
    if (word0 + own < words && m0 + m < p.M) {
      const size_t to = size_t(m0 + m) * p.K + (word0 + own) * 16 + quarter * 4;
      if (p.split_rows >= p.N) {
        store_four(y + to, total);
      } else {
        *(device float4*)(partial + size_t(group.z) * p.M * p.K + to) = total;
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

// y as the sum of all splits, in their order. Four elements a thread; K is a multiple of 16.
template <typename T>
[[kernel]] void codebook_matmul_n_sum(const device float* partial [[buffer(0)]], device T* y [[buffer(1)]],
                                      constant CodebookMatmulSumParams& p [[buffer(2)]],
                                      uint thread_index [[thread_position_in_grid]]) {
  const int i = int(thread_index) * 4;
  if (i >= p.elements) return;
  float4 total = float4(0.0f);
  for (int s = 0; s < p.splits; ++s) total += *(const device float4*)(partial + size_t(s) * p.elements + i);
  store_four(y + i, total);
}
