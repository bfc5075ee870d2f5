#pragma once

#include <metal_simdgroup>
#include <metal_simdgroup_matrix>
#include <metal_stdlib>

#include "codebook_matmul/buckets.h"
#include "codebook_matmul/lanes.h"
#include "codebook_matmul/params.h"
#include "common/unroll.h"

using namespace metal;

// A threadgroup of four SIMD-groups makes a 64 x 64 tile of dW, each 32 x 32 of it in 4 x 4 fragments.
constant constexpr int kGradThreads = CodebookMatmulLayout::tile_threads;
constant constexpr int kGradTile = CodebookMatmulLayout::tile;
constant constexpr int kGradPart = CodebookMatmulLayout::grad_block;
constant constexpr int kGradFragments = 4;
constant constexpr int kGradWords = kGradTile / 16;  // of codes in a row of a tile
// Sums of more rows are added up in a second set of registers: one float32 sum over thousands of rows would
// lose the digits that the tolerances ask for.
constant constexpr int kGradRound = 512;

using GradFragment = simdgroup_matrix<float, 8, 8>;

// Rows [row, row + ROWS) by columns [column, column + 64) of a matrix, with zeros past its end.
template <typename T, int ROWS, int PITCH>
METAL_FUNC void stage_rows(const device T* matrix, int row, int row_end, int column, int columns,
                           bool vectors, threadgroup T* tile, uint thread_index) {
  if (vectors) {
    constexpr int kVector = 16 / sizeof(T);
    constexpr int kRowVectors = kGradTile / kVector;
    constexpr int kLoads = ROWS * kRowVectors / kGradThreads;
    uint4 loaded[kLoads];
    GHOST_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      const int at = int(thread_index) + i * kGradThreads;
      const int r = row + at / kRowVectors;
      const int c = column + at % kRowVectors * kVector;
      // The columns are a multiple of the vector.
      const bool inside = r < row_end && c < columns;
      loaded[i] = inside ? *(const device uint4*)(matrix + size_t(r) * columns + c) : uint4(0u);
    }
    GHOST_UNROLL
    for (int i = 0; i < kLoads; ++i) {
      const int at = int(thread_index) + i * kGradThreads;
      *(threadgroup uint4*)(tile + at / kRowVectors * PITCH + at % kRowVectors * kVector) = loaded[i];
    }
  } else {
#pragma clang loop unroll_count(4)
    for (int i = 0; i < ROWS * kGradTile / kGradThreads; ++i) {
      const int at = int(thread_index) + i * kGradThreads;
      const int r = row + at / kGradTile;
      const int c = column + at % kGradTile;
      const bool inside = r < row_end && c < columns;
      tile[at / kGradTile * PITCH + at % kGradTile] = inside ? matrix[size_t(r) * columns + c] : T(0.0f);
    }
  }
}

// Two fragments side by side hold 16 columns, every lane two neighbouring ones of each. Afterwards the four
// lanes of a row hold four neighbouring columns each, in the order of the bits 3 and 0 of their numbers.
METAL_FUNC float4 four_columns(thread GradFragment& left, thread GradFragment& right, uint lane) {
  const bool high = (lane & 8u) != 0u;
  const bool low = (lane & 1u) != 0u;
  const float2 a = float2(left.thread_elements()[0], left.thread_elements()[1]);
  const float2 b = float2(right.thread_elements()[0], right.thread_elements()[1]);
  // Bit 3 chooses the fragment: then first and second are its columns of the lanes with bit 3 clear and set.
  const float2 other = simd_shuffle_xor(high ? a : b, 8);
  const float2 first = high ? other : a;
  const float2 second = high ? b : other;
  // Bit 0 chooses between those.
  const float2 rest = simd_shuffle_xor(low ? first : second, 1);
  return low ? float4(rest, second) : float4(first, rest);
}

// Tiles of dW, from threadgroups (ceil(K / 64), ceil(N / 64), splits). What leaves the tile are dW itself
// (p.keep), dweight[split][n][k], and sums over equal codes (p.bucket): with p.shared those of the tile, in
// the order of the threadgroups, else partial[split][32 columns][n][code].
template <typename T>
[[kernel]] void codebook_matmul_grad_tile(
    const device T* left [[buffer(0)]], const device T* right [[buffer(1)]],
    const device uint* codes [[buffer(2)]], device float* dweight [[buffer(3)]],
    device float* partial [[buffer(4)]], constant CodebookGradParams& p [[buffer(5)]],
    uint3 group [[threadgroup_position_in_grid]], uint3 groups [[threadgroups_per_grid]],
    uint thread_index [[thread_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]],
    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  // As many rows as two vectors a thread and operand cover.
  constexpr int kRows = 64 / sizeof(T);
  constexpr int kPitch = kGradTile + 16 / sizeof(T);
  // As vectors: only those begin at a multiple of 16 bytes.
  constexpr int kChunks = kRows * kPitch * sizeof(T) / 16;
  threadgroup uint4 left_chunks[kChunks];
  threadgroup uint4 right_chunks[kChunks];
  threadgroup T* left_tile = (threadgroup T*)left_chunks;
  threadgroup T* right_tile = (threadgroup T*)right_chunks;
  threadgroup uint code_tile[kGradTile * kGradWords];
  threadgroup float tile_sums[16];

  const int n0 = int(group.y) * kGradTile;
  const int k0 = int(group.x) * kGradTile;
  const int m0 = int(group.z) * p.split_rows;
  const int m1 = min(m0 + p.split_rows, p.M);
  // The part of this SIMD-group.
  const int n_part = (int(simdgroup) >> 1) * kGradPart;
  const int k_part = (int(simdgroup) & 1) * kGradPart;

  const int words = p.K / 16;
  if (p.bucket) {
    GHOST_UNROLL
    for (int i = 0; i < kGradTile * kGradWords / kGradThreads; ++i) {
      const int at = int(thread_index) + i * kGradThreads;
      const int n = n0 + at / kGradWords;
      const int word = k0 / 16 + at % kGradWords;
      code_tile[at] = n < p.N && word < words ? codes[size_t(n) * words + word] : 0u;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  GradFragment total[kGradFragments][kGradFragments];
  GHOST_UNROLL
  for (int i = 0; i < kGradFragments; ++i) {
    GHOST_UNROLL
    for (int j = 0; j < kGradFragments; ++j) total[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
  for (int first = m0; first < m1; first += kGradRound) {
    GradFragment sum[kGradFragments][kGradFragments];
    GHOST_UNROLL
    for (int i = 0; i < kGradFragments; ++i) {
      GHOST_UNROLL
      for (int j = 0; j < kGradFragments; ++j) sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    const int last = min(first + kGradRound, m1);
    for (int m = first; m < last; m += kRows) {
      stage_rows<T, kRows, kPitch>(left, m, last, n0, p.N, p.left_vectors != 0, left_tile, thread_index);
      stage_rows<T, kRows, kPitch>(right, m, last, k0, p.K, p.right_vectors != 0, right_tile, thread_index);
      threadgroup_barrier(mem_flags::mem_threadgroup);
      for (int r = 0; r < kRows; r += 8) {
        simdgroup_matrix<T, 8, 8> a[kGradFragments];
        simdgroup_matrix<T, 8, 8> b[kGradFragments];
        GHOST_UNROLL
        for (int i = 0; i < kGradFragments; ++i) {
          simdgroup_load(a[i], left_tile + r * kPitch + n_part + 8 * i, kPitch, ulong2(0), true);
        }
        GHOST_UNROLL
        for (int j = 0; j < kGradFragments; ++j) {
          simdgroup_load(b[j], right_tile + r * kPitch + k_part + 8 * j, kPitch);
        }
        GHOST_UNROLL
        for (int i = 0; i < kGradFragments; ++i) {
          GHOST_UNROLL
          for (int j = 0; j < kGradFragments; ++j) {
            simdgroup_multiply_accumulate(sum[i][j], a[i], b[j], sum[i][j]);
          }
        }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
    GHOST_UNROLL
    for (int i = 0; i < kGradFragments; ++i) {
      GHOST_UNROLL
      for (int j = 0; j < kGradFragments; ++j) {
        total[i][j].thread_elements()[0] += sum[i][j].thread_elements()[0];
        total[i][j].thread_elements()[1] += sum[i][j].thread_elements()[1];
      }
    }
  }

  // A lane's row of a fragment, and which four of the 16 columns of a word it has.
  const int row = fragment_lane(lane).row;
  const int quarter = fragment_lane(lane).pair;
  const int block = (k0 + k_part) / kGradPart;
  float4 whole = float4(0.0f);
  GHOST_UNROLL
  for (int i = 0; i < kGradFragments; ++i) {
    const int tile_row = n_part + 8 * i + row;
    const int n = n0 + tile_row;
    float4 sums = float4(0.0f);
    GHOST_UNROLL
    for (int j = 0; j < kGradFragments; j += 2) {
      const float4 values = four_columns(total[i][j], total[i][j + 1], lane);
      const int tile_word = k_part / 16 + j / 2;
      const int word = k0 / 16 + tile_word;
      if (n < p.N && word < words) {
        const size_t at = (size_t(group.z) * p.N + n) * words + word;
        device float* to = dweight + 16 * at + 4 * quarter;
        if (p.keep) *(device float4*)to = values;
        if (p.bucket) {
          add_to_buckets(code_tile[kGradWords * tile_row + tile_word] >> (8 * quarter), values, sums);
        }
      }
    }
    if (p.shared) {
      whole += sums;
    } else if (p.bucket) {
      const float mine = share_buckets<8, 1>(sums, lane);
      const size_t at = (size_t(group.z) * p.blocks + block) * p.N + n;
      if (n < p.N && block < p.blocks) partial[4 * at + quarter] = mine;
    }
  }
  if (!p.shared) return;

  float mine = share_buckets<8, 1>(whole, lane);
  mine += simd_shuffle_xor(mine, 2);
  mine += simd_shuffle_xor(mine, 4);
  mine += simd_shuffle_xor(mine, 16);
  if (row == 0) tile_sums[4 * simdgroup + quarter] = mine;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index < 4u) {
    const uint c = thread_index;
    const size_t tile = (size_t(group.z) * groups.y + group.y) * groups.x + group.x;
    partial[4 * tile + c] = (tile_sums[c] + tile_sums[4 + c]) + (tile_sums[8 + c] + tile_sums[12 + c]);
  }
}

// out[n][group][code]: every thread adds up the blocks of one group of one row, split by split. Lanes go over
// p.group_lanes groups first, so that both the partial sums and the results are touched by whole segments.
// Threads (N rounded up to a threadgroup's rows, groups rounded up to group_lanes).
[[kernel]] void codebook_matmul_grad_groups(const device float4* partial [[buffer(0)]],
                                            device float4* out [[buffer(1)]],
                                            constant CodebookGradGroupsParams& p [[buffer(2)]],
                                            uint3 group [[threadgroup_position_in_grid]],
                                            uint thread_index [[thread_index_in_threadgroup]]) {
  const int rows = kGradThreads / p.group_lanes;
  const int n = int(group.x) * rows + int(thread_index) / p.group_lanes;
  const int g = int(group.y) * p.group_lanes + int(thread_index) % p.group_lanes;
  if (n >= p.N || g >= p.groups) return;
  const int first = g * p.group_blocks;
  const int last = min(first + p.group_blocks, p.blocks);
  float4 total = float4(0.0f);
  for (int split = 0; split < p.splits; ++split) {
    const device float4* from = partial + size_t(split) * p.blocks * p.N + n;
    float4 sum = float4(0.0f);
#pragma clang loop unroll_count(4)
    for (int block = first; block < last; ++block) sum += from[size_t(block) * p.N];
    total += sum;
  }
  out[size_t(n) * p.groups + g] = total;
}

// out[code], the sum over the tiles: one threadgroup.
[[kernel]] void codebook_matmul_grad_all(const device float4* partial [[buffer(0)]],
                                         device float* out [[buffer(1)]],
                                         constant CodebookGradAllParams& p [[buffer(2)]],
                                         uint thread_index [[thread_index_in_threadgroup]],
                                         uint lane [[thread_index_in_simdgroup]],
                                         uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float sums[4 * kGradThreads / 32];
  float4 total = float4(0.0f);
#pragma clang loop unroll_count(4)
  for (int i = int(thread_index); i < p.tiles; i += kGradThreads) total += partial[i];
  float mine = share_buckets<2, 1>(total, lane);
  mine += simd_shuffle_xor(mine, 4);
  mine += simd_shuffle_xor(mine, 8);
  mine += simd_shuffle_xor(mine, 16);
  if (lane < 4u) sums[4 * simdgroup + lane] = mine;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index < 4u) {
    const uint c = thread_index;
    out[c] = (sums[c] + sums[4 + c]) + (sums[8 + c] + sums[12 + c]);
  }
}
