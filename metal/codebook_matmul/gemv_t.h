#pragma once

#include <metal_simdgroup>

#include "codebook_matmul/chunk.h"
#include "codebook_matmul/decode.h"
#include "codebook_matmul/params.h"

constant constexpr const int kGemvRows = CodebookMatmulLayout::gemv_rows;      // rows of W of a SIMD-group
constant constexpr const int kGemvGroups = CodebookMatmulLayout::gemv_groups;  // SIMD-groups of a threadgroup

// The 16 pairs of levels of a codebook, pair l in lane l: first code in the low bits. Levels are rounded to
// the type of x, so that a pair of half precision is one word and one shuffle.
template <typename T>
struct PairTable {
  uint pair;

  METAL_FUNC void fill(float4 levels, uint lane) thread {
    pair = pack_word<T>(decode(lane & 3u, 1u, levels), decode((lane >> 2) & 3u, 1u, levels));
  }
  METAL_FUNC float2 at(uint codes) const thread {
    return unpack_word<T>(simd_shuffle(pair, ushort(codes & 15u)));
  }
};
template <>
struct PairTable<float> {
  float2 pair;

  METAL_FUNC void fill(float4 levels, uint lane) thread {
    pair = float2(decode(lane & 3u, 1u, levels), decode((lane >> 2) & 3u, 1u, levels));
  }
  METAL_FUNC float2 at(uint codes) const thread {
    const ushort from = ushort(codes & 15u);
    return float2(simd_shuffle(pair.x, from), simd_shuffle(pair.y, from));
  }
};

// y = x W^T for MB rows of x at a time. A SIMD-group owns kGemvRows rows of W and walks them in blocks of
// 512 columns. Codes and x are both loaded coalesced, a word or 16 bytes a lane side by side, so the codes
// that meet a lane's chunk of x lie in another lane: one shuffle a row and chunk brings them.
// Grid: threadgroups (ceil(N / 8), ceil(M / MB)) of (32, kGemvGroups).
template <typename T, int MB>
[[kernel]] void codebook_matmul_t_gemv(const device T* x [[buffer(0)]],
                                       const device uint* codes [[buffer(1)]],
                                       const device float* codebook [[buffer(2)]], device T* y [[buffer(3)]],
                                       constant CodebookMatmulParams& p [[buffer(4)]],
                                       uint3 group [[threadgroup_position_in_grid]],
                                       uint lane [[thread_index_in_simdgroup]],
                                       uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int R = kGemvRows;
  constexpr int size = Chunk<T>::size;
  constexpr int sharers = 16 / size;  // lanes whose chunks meet the codes of one word
  const int n0 = (int(group.x) * kGemvGroups + int(simdgroup)) * R;
  const int m0 = int(group.y) * MB;
  if (n0 >= p.N) return;
  const int words = p.K / 16;
  const uint shift = (lane % sharers) * uint(2 * size);

  // Rows after the last repeat it and are not stored.
  const device uint* row[R];
  const device float* row_codebook[R];
  float4 levels[R];
  PairTable<T> table[R];
  float sum[MB][R];
  GHOST_UNROLL
  for (int r = 0; r < R; ++r) {
    const int n = min(n0 + r, p.N - 1);
    row[r] = codes + size_t(n) * words;
    row_codebook[r] = codebook + size_t(n) * p.codebook_stride;
    if (!by_group) levels[r] = load_levels(row_codebook[r]);
    if (pair_table) table[r].fill(levels[r], lane);
    GHOST_UNROLL
    for (int m = 0; m < MB; ++m) sum[m][r] = 0.0f;
  }
  const device T* x_row[MB];
  GHOST_UNROLL
  for (int m = 0; m < MB; ++m) x_row[m] = x + size_t(min(m0 + m, p.M - 1)) * p.K;

  uint next[R];
  if (words > 0) {
    GHOST_UNROLL
    for (int r = 0; r < R; ++r) next[r] = row[r][min(int(lane), words - 1)];
  }
  for (int word = 0; word < words; word += 32) {
    uint own[R];
    GHOST_UNROLL
    for (int r = 0; r < R; ++r) own[r] = next[r];
    if (word + 32 < words) {
      GHOST_UNROLL
      for (int r = 0; r < R; ++r) next[r] = row[r][min(word + 32 + int(lane), words - 1)];
    }
    GHOST_UNROLL
    for (int step = 0; step < sharers; ++step) {
      if (word * 16 + step * 32 * size >= p.K) break;
      const int column = word * 16 + (step * 32 + int(lane)) * size;
      const bool inside = column < p.K;  // false only in the last block
      const int loaded = min(column, p.K - size);
      float v[MB][size];
      GHOST_UNROLL
      for (int m = 0; m < MB; ++m) {
        const uint4 raw = load_chunk(x_row[m] + loaded, size);
        GHOST_UNROLL
        for (int i = 0; i < size; ++i) v[m][i] = element<T>(raw, i);
      }
      const ushort from = ushort(step * (32 / sharers) + int(lane) / sharers);
      GHOST_UNROLL
      for (int r = 0; r < R; ++r) {
        const uint q = simd_shuffle(own[r], from) >> shift;
        float w[size];
        if (pair_table) {
          GHOST_UNROLL
          for (int i = 0; i < size; i += 2) {
            const float2 pair = table[r].at(q >> (2 * i));
            w[i] = pair.x;
            w[i + 1] = pair.y;
          }
        } else {
          const float4 c =
              by_group ? load_levels(row_codebook[r] + 4 * (loaded >> p.group_shift)) : levels[r];
          GHOST_UNROLL
          for (int i = 0; i < size; ++i) w[i] = decode_at(q >> (8 * (i / 4)), i % 4, c);
        }
        // Not a product with zero: a level or an element may be infinite.
        if (inside) {
          GHOST_UNROLL
          for (int m = 0; m < MB; ++m) {
            GHOST_UNROLL
            for (int i = 0; i < size; ++i) sum[m][r] = fma(v[m][i], w[i], sum[m][r]);
          }
        }
      }
    }
  }

  GHOST_UNROLL
  for (int m = 0; m < MB; ++m) {
    float own = 0.0f;
    GHOST_UNROLL
    for (int r = 0; r < R; ++r) {
      const float total = simd_sum(sum[m][r]);
      own = int(lane) == r ? total : own;
    }
    const int n = n0 + int(lane);
    if (int(lane) < R && n < p.N && m0 + m < p.M) y[size_t(m0 + m) * p.N + n] = T(own);
  }
}
