#pragma once

#include <metal_simdgroup>
#include <metal_simdgroup_matrix>

#include "codebook_matmul/chunk.h"
#include "codebook_matmul/decode.h"
#include "codebook_matmul/lanes.h"
#include "codebook_matmul/params.h"

constant constexpr const int kMmaBlock = 256;  // columns: what the four lanes of a row load at once
constant constexpr const int kMmaRows = CodebookMatmulLayout::mma_rows;  // rows of W of a threadgroup

// y = x W^T for up to 8 MB rows of x at a time, as products of 8 x 8 blocks with W on the left: weights are
// decoded straight into the registers of a simdgroup_matrix, so there is no tile of weights and no barrier in
// the loop. Fragments are float whatever T is: levels stay exact, and M1 and M2 multiply both at one rate.
//
// A product sums over eight columns, one of each chunk that the eight lanes r = 0..7 of a column of x^T load:
// element c of all chunks is one product. Lane (r, pair) of W decodes columns 2 pair and 2 pair + 1 of those
// eight. The codes it has to decode are dealt out among the four lanes of a row after a load of 64 contiguous
// bytes. SIMD-groups split the columns of W between them.
// Grid: threadgroups (ceil(N / 32), ceil(M / (8 MB))) of (32, 8 / max(MB, 2)).
template <typename T, int MB>
[[kernel]] void codebook_matmul_t_mma(const device T* x [[buffer(0)]], const device uint* codes [[buffer(1)]],
                                      const device float* codebook [[buffer(2)]], device T* y [[buffer(3)]],
                                      constant CodebookMatmulParams& p [[buffer(4)]],
                                      uint3 group [[threadgroup_position_in_grid]],
                                      uint lane [[thread_index_in_simdgroup]],
                                      uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int size = Chunk<T>::size;
  constexpr int NB = kMmaRows / 8;
  constexpr int groups = 8 / (MB < 2 ? 2 : MB);
  constexpr int run = 8 * size;        // columns of one chunk from each of eight lanes
  constexpr int pitch = kMmaRows + 4;  // the lanes of a store meet in no bank
  threadgroup float partial[groups * 8 * MB * pitch];

  const FragmentLane at = fragment_lane(lane);
  const int n0 = int(group.x) * kMmaRows;
  const int m0 = int(group.y) * 8 * MB;
  const int words = p.K / 16;

  simdgroup_matrix<float, 8, 8> sum[NB][MB];
  float4 levels[NB];
  GHOST_UNROLL
  for (int i = 0; i < NB; ++i) {
    GHOST_UNROLL
    for (int j = 0; j < MB; ++j) sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    const int n = n0 + 8 * i + at.row;
    levels[i] = float4(0.0f);
    if (!by_group && n < p.N) levels[i] = load_levels(codebook + size_t(n) * p.codebook_stride);
  }

  for (int k0 = int(simdgroup) * kMmaBlock; k0 < p.K; k0 += groups * kMmaBlock) {
    uint4 q[NB];
    GHOST_UNROLL
    for (int i = 0; i < NB; ++i) {
      const int n = n0 + 8 * i + at.row;
      q[i] = n < p.N ? load_words(codes + size_t(n) * words, k0 / 16 + 4 * at.pair, words) : uint4(0u);
    }
    // From here on word i of lane `pair` is what it decodes of the block's i-th 64 columns.
    GHOST_UNROLL
    for (int i = 0; i < NB; ++i) q[i] = transpose_lanes<8, 1>(size == 8 ? q[i] : deal_halves(q[i]), lane);

    GHOST_UNROLL
    for (int h = 0; h < kMmaBlock / run; ++h) {
      const int k = k0 + h * run;
      if (k >= p.K) break;
      const int x_column = k + size * at.row;
      uint4 raw[MB][2];
      GHOST_UNROLL
      for (int j = 0; j < MB; ++j) {
        GHOST_UNROLL
        for (int e = 0; e < 2; ++e) {
          const int m = m0 + 8 * j + 2 * at.pair + e;
          raw[j][e] =
              m < p.M && x_column < p.K ? load_chunk(x + size_t(m) * p.K + x_column, size) : uint4(0u);
        }
      }
      const int w_column = k + 2 * size * at.pair;
      if (by_group && (h == 0 || (k & ((1 << p.group_shift) - 1)) == 0)) {
        const int column = min(w_column, p.K - 1);
        GHOST_UNROLL
        for (int i = 0; i < NB; ++i) {
          const int n = n0 + 8 * i + at.row;
          if (n < p.N) {
            levels[i] = load_levels(codebook + size_t(n) * p.codebook_stride + 4 * (column >> p.group_shift));
          }
        }
      }
      if (k + run > p.K && w_column >= p.K) {
        // Zero levels against zero x: an infinite level would make NaN of it.
        GHOST_UNROLL
        for (int i = 0; i < NB; ++i) levels[i] = float4(0.0f);
      }
      GHOST_UNROLL
      for (int c = 0; c < size; ++c) {
        simdgroup_matrix<float, 8, 8> b[MB];
        GHOST_UNROLL
        for (int j = 0; j < MB; ++j) {
          b[j].thread_elements()[0] = element<T>(raw[j][0], c);
          b[j].thread_elements()[1] = element<T>(raw[j][1], c);
        }
        GHOST_UNROLL
        for (int i = 0; i < NB; ++i) {
          const uint mine = size == 8 ? uint(q[i][h % 4]) : uint(q[i][h / 2]) >> (16 * (h % 2));
          simdgroup_matrix<float, 8, 8> a;
          a.thread_elements()[0] = decode_at(mine >> (8 * (c / 4)), c % 4, levels[i]);
          a.thread_elements()[1] = decode_at(mine >> (2 * size + 8 * (c / 4)), c % 4, levels[i]);
          GHOST_UNROLL
          for (int j = 0; j < MB; ++j) simdgroup_multiply_accumulate(sum[i][j], a, b[j], sum[i][j]);
        }
      }
    }
  }

  GHOST_UNROLL
  for (int i = 0; i < NB; ++i) {
    GHOST_UNROLL
    for (int j = 0; j < MB; ++j) {
      GHOST_UNROLL
      for (int e = 0; e < 2; ++e) {
        partial[(int(simdgroup) * 8 * MB + 8 * j + 2 * at.pair + e) * pitch + 8 * i + at.row] =
            sum[i][j].thread_elements()[e];
      }
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int m = int(simdgroup); m < min(8 * MB, p.M - m0); m += groups) {
    float total = 0.0f;
    GHOST_UNROLL
    for (int s = 0; s < groups; ++s) total += partial[(s * 8 * MB + m) * pitch + int(lane)];
    const int n = n0 + int(lane);
    if (n < p.N) y[size_t(m0 + m) * p.N + n] = T(total);
  }
}
