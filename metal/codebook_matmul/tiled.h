#pragma once

#include <metal_simdgroup>
#include <metal_simdgroup_matrix>

#include "codebook_matmul/chunk.h"
#include "codebook_matmul/decode.h"
#include "codebook_matmul/lanes.h"
#include "codebook_matmul/params.h"

constant constexpr const int kTile = CodebookMatmulLayout::tile;  // rows and columns of y of a threadgroup
constant constexpr const int kTileThreads =
    CodebookMatmulLayout::tile_threads;        // four SIMD-groups, 32 x 32 of y each
constant constexpr const int kFragments = 4;   // 8 x 8 blocks along either side of those
constant constexpr const int kLongSum = 1024;  // products after which a float32 sum starts anew

// What the tiles of a threadgroup look like for elements of type T. They are declared as vectors: only those
// begin at a multiple of 16 bytes.
template <typename T>
struct Tile {
  static constant constexpr const int depth = 64 / sizeof(T);  // summed a step: 64 bytes of a row of x
  // Padded, so that the rows a SIMD-group reads lie in different banks.
  static constant constexpr const int x_pitch = depth + Chunk<T>::size;  // of T
  static constant constexpr const int w_pitch = depth + 4;               // of float: W as (row, column)
  static constant constexpr const int wt_pitch = kTile + 8;              // the same for x W
  static constant constexpr const int chunks = kTile * depth / Chunk<T>::size / kTileThreads;  // a thread
};

// The x tile: rows m0.. and columns k0.. of x (M, depth), zero outside. Loaded to registers while the tile
// before it is in use, four threads a row of 64 bytes.
template <typename T>
struct TileOfX {
  uint4 raw[Tile<T>::chunks];

  METAL_FUNC void load(const device T* x, int rows, int columns, int m0, int k0, uint thread_index) thread {
    GHOST_UNROLL
    for (int i = 0; i < Tile<T>::chunks; ++i) {
      const int m = m0 + int(thread_index) / 4 + 32 * i;
      const int k = k0 + int(thread_index) % 4 * Chunk<T>::size;
      raw[i] = m < rows ? load_chunk(x + size_t(m) * columns + k, columns - k) : uint4(0u);
    }
  }
  METAL_FUNC void store(threadgroup T* tile, uint thread_index) const thread {
    GHOST_UNROLL
    for (int i = 0; i < Tile<T>::chunks; ++i) {
      const int m = int(thread_index) / 4 + 32 * i;
      *(threadgroup uint4*)(tile + m * Tile<T>::x_pitch + int(thread_index) % 4 * Chunk<T>::size) = raw[i];
    }
  }
};

// Two neighbouring elements of a tile of x.
template <typename T>
METAL_FUNC float2 load_pair(const threadgroup T* p) {
  return unpack_word<T>(*(const threadgroup uint*)p);
}
template <>
METAL_FUNC float2 load_pair<float>(const threadgroup float* p) {
  return *(const threadgroup float2*)p;
}

// What has been summed before: a long float32 sum loses digits. Half precision loses more in y and goes
// without the registers.
template <typename T>
struct LongSum {
  METAL_FUNC void start() thread {}
  METAL_FUNC void add(thread simdgroup_matrix<float, 8, 8>&, int, int) thread {}
  METAL_FUNC void finish(thread simdgroup_matrix<float, 8, 8>&, int, int) const thread {}
};
template <>
struct LongSum<float> {
  float2 sum[kFragments][kFragments];

  METAL_FUNC void start() thread {
    GHOST_UNROLL
    for (int i = 0; i < kFragments; ++i) {
      GHOST_UNROLL
      for (int j = 0; j < kFragments; ++j) sum[i][j] = float2(0.0f);
    }
  }
  // Takes over what is in a fragment.
  METAL_FUNC void add(thread simdgroup_matrix<float, 8, 8>& recent, int i, int j) thread {
    sum[i][j] += float2(recent.thread_elements()[0], recent.thread_elements()[1]);
    recent = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  }
  METAL_FUNC void finish(thread simdgroup_matrix<float, 8, 8>& recent, int i, int j) const thread {
    recent.thread_elements()[0] += sum[i][j].x;
    recent.thread_elements()[1] += sum[i][j].y;
  }
};

// Stores eight rows of four fragments side by side, of which a lane has row `at.row`, to y_row + column with
// 16 bytes a lane. Half precision: the four lanes of a row trade the words of their four fragments, and each
// stores one fragment.
template <typename T>
struct FragmentRows {
  static METAL_FUNC void store(thread simdgroup_matrix<float, 8, 8>* sum, FragmentLane at, device T* y_row,
                               bool inside, int columns, int n, uint lane) {
    uint4 q;
    GHOST_UNROLL
    for (int j = 0; j < kFragments; ++j) {
      q[j] = pack_word<T>(sum[j].thread_elements()[0], sum[j].thread_elements()[1]);
    }
    q = transpose_lanes<8, 1>(q, lane);
    const int column = n + 8 * at.pair;
    if (inside && column < columns) *(device uint4*)(y_row + column) = q;
  }
};
// float: two fragments at a time. The lanes that differ in bit 1 keep a fragment each.
template <>
struct FragmentRows<float> {
  static METAL_FUNC void store(thread simdgroup_matrix<float, 8, 8>* sum, FragmentLane at,
                               device float* y_row, bool inside, int columns, int n, uint lane) {
    const bool odd = (lane & 1u) != 0u;
    GHOST_UNROLL
    for (int j = 0; j < kFragments; j += 2) {
      const float2 first = float2(sum[j].thread_elements()[0], sum[j].thread_elements()[1]);
      const float2 second = float2(sum[j + 1].thread_elements()[0], sum[j + 1].thread_elements()[1]);
      const float2 kept = odd ? second : first;
      const float2 given = odd ? first : second;
      const float2 got = float2(simd_shuffle_xor(given.x, 1), simd_shuffle_xor(given.y, 1));
      const int column = n + 8 * (j + int(odd)) + 4 * (at.pair / 2);
      if (inside && column < columns) {
        *(device float4*)(y_row + column) =
            odd ? float4(got.x, got.y, kept.x, kept.y) : float4(kept.x, kept.y, got.x, got.y);
      }
    }
  }
};

// The 32 x 32 block of y of a SIMD-group. Fragments are float whatever T is: levels stay exact, and M1 and M2
// multiply both at one rate.
template <typename T>
struct TileOfY {
  simdgroup_matrix<float, 8, 8> sum[kFragments][kFragments];
  LongSum<T> before;
  FragmentLane at;
  int m0;  // in the tile
  int n0;

  METAL_FUNC void start(uint lane, uint simdgroup) thread {
    at = fragment_lane(lane);
    m0 = int(simdgroup) / 2 * 32;
    n0 = int(simdgroup) % 2 * 32;
    GHOST_UNROLL
    for (int i = 0; i < kFragments; ++i) {
      GHOST_UNROLL
      for (int j = 0; j < kFragments; ++j) sum[i][j] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
    }
    before.start();
  }

  // Adds the product of both tiles. The right one has row n of W at n * w_pitch (TRANSPOSE), or column n of
  // it at wt_pitch * k + n.
  template <bool TRANSPOSE>
  METAL_FUNC void multiply(const threadgroup T* x, const threadgroup float* w) thread {
    GHOST_UNROLL
    for (int k = 0; k < Tile<T>::depth; k += 8) {
      simdgroup_matrix<float, 8, 8> a[kFragments];
      simdgroup_matrix<float, 8, 8> b[kFragments];
      GHOST_UNROLL
      for (int i = 0; i < kFragments; ++i) {
        const float2 pair = load_pair<T>(x + (m0 + 8 * i + at.row) * Tile<T>::x_pitch + k + 2 * at.pair);
        a[i].thread_elements()[0] = pair.x;
        a[i].thread_elements()[1] = pair.y;
      }
      GHOST_UNROLL
      for (int j = 0; j < kFragments; ++j) {
        const int n = n0 + 8 * j + 2 * at.pair;
        const float2 pair =
            TRANSPOSE
                ? float2(w[n * Tile<T>::w_pitch + k + at.row], w[(n + 1) * Tile<T>::w_pitch + k + at.row])
                : *(const threadgroup float2*)(w + (k + at.row) * Tile<T>::wt_pitch + n);
        b[j].thread_elements()[0] = pair.x;
        b[j].thread_elements()[1] = pair.y;
      }
      GHOST_UNROLL
      for (int i = 0; i < kFragments; ++i) {
        GHOST_UNROLL
        for (int j = 0; j < kFragments; ++j) simdgroup_multiply_accumulate(sum[i][j], a[i], b[j], sum[i][j]);
      }
    }
  }

  // After the products up to `depth`, which is the depth of whole tiles.
  METAL_FUNC void keep(int depth) thread {
    if (depth % kLongSum != 0) return;
    GHOST_UNROLL
    for (int i = 0; i < kFragments; ++i) {
      GHOST_UNROLL
      for (int j = 0; j < kFragments; ++j) before.add(sum[i][j], i, j);
    }
  }

  // Stores to y (rows, columns) with the corner of the threadgroup's tile at (m, n).
  METAL_FUNC void store(device T* y, int rows, int columns, int m, int n, uint lane) thread {
    const bool vectors = columns % Chunk<T>::size == 0;
    GHOST_UNROLL
    for (int i = 0; i < kFragments; ++i) {
      const int row = m + m0 + 8 * i + at.row;
      GHOST_UNROLL
      for (int j = 0; j < kFragments; ++j) before.finish(sum[i][j], i, j);
      if (vectors) {
        FragmentRows<T>::store(sum[i], at, y + size_t(row) * columns, row < rows, columns, n + n0, lane);
      } else if (row < rows) {
        GHOST_UNROLL
        for (int j = 0; j < kFragments; ++j) {
          GHOST_UNROLL
          for (int e = 0; e < 2; ++e) {
            const int column = n + n0 + 8 * j + 2 * at.pair + e;
            if (column < columns) y[size_t(row) * columns + column] = T(sum[i][j].thread_elements()[e]);
          }
        }
      }
    }
  }
};

// y = x W^T, tiles of 64 x 64, the weights decoded once a tile to threadgroup memory.
// The four threads of a row of W load 64 bytes of its codes together, 256 columns, and deal them out so that
// each has a quarter of every step's columns. A thread looks after rows t / 4 and t / 4 + 32.
// Grid: threadgroups (ceil(N / 64), ceil(M / 64)) of 128.
template <typename T>
[[kernel]] void codebook_matmul_t_tiled(const device T* x [[buffer(0)]],
                                        const device uint* codes [[buffer(1)]],
                                        const device float* codebook [[buffer(2)]], device T* y [[buffer(3)]],
                                        constant CodebookMatmulParams& p [[buffer(4)]],
                                        uint3 group [[threadgroup_position_in_grid]],
                                        uint thread_index [[thread_index_in_threadgroup]],
                                        uint lane [[thread_index_in_simdgroup]],
                                        uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int depth = Tile<T>::depth;
  constexpr int own = depth / 4;  // columns a thread decodes of a row and step
  constexpr int block = 256;
  threadgroup uint4 x_chunks[kTile * Tile<T>::x_pitch / Chunk<T>::size];
  threadgroup float4 w_chunks[kTile * Tile<T>::w_pitch / 4];
  threadgroup T* x_tile = (threadgroup T*)x_chunks;
  threadgroup float* w_tile = (threadgroup float*)w_chunks;

  const int n0 = int(group.x) * kTile;
  const int m0 = int(group.y) * kTile;
  const int words = p.K / 16;
  const int row = int(thread_index) / 4;
  const int quarter = int(thread_index) % 4;

  TileOfY<T> result;
  result.start(lane, simdgroup);
  TileOfX<T> next;
  next.load(x, p.M, p.K, m0, 0, thread_index);

  const device uint* w_row[2];
  const device float* row_codebook[2];
  uint4 q[2];
  float4 levels[2];
  GHOST_UNROLL
  for (int i = 0; i < 2; ++i) {
    // Rows after the last repeat it and are not stored.
    const int n = min(n0 + row + 32 * i, p.N - 1);
    w_row[i] = codes + size_t(n) * words;
    row_codebook[i] = codebook + size_t(n) * p.codebook_stride;
    if (!by_group) levels[i] = load_levels(row_codebook[i]);
  }

  for (int k0 = 0; k0 < p.K; k0 += depth) {
    // A word of codes lasts for 16 / own steps, the block for four of them.
    if (k0 % block == 0) {
      GHOST_UNROLL
      for (int i = 0; i < 2; ++i) {
        const uint4 loaded = load_words(w_row[i], k0 / 16 + 4 * quarter, words);
        q[i] = transpose_lanes<2, 1>(own == 8 ? deal_halves(loaded) : deal_bytes(loaded), lane);
      }
    } else if (k0 % (16 / own * depth) == 0) {
      GHOST_UNROLL
      for (int i = 0; i < 2; ++i) q[i] = q[i].yzwx;
    }
    const int shift = k0 / depth % (16 / own) * 2 * own;
    const int column = k0 + quarter * own;
    GHOST_UNROLL
    for (int i = 0; i < 2; ++i) {
      if (by_group && (k0 & ((1 << p.group_shift) - 1)) == 0) {
        levels[i] = load_levels(row_codebook[i] + 4 * (k0 >> p.group_shift));
      }
      // Zero levels against zero x: an infinite level would make NaN of it.
      const float4 c = column < p.K ? levels[i] : float4(0.0f);
      const uint mine = q[i].x >> shift;
      threadgroup float* to = w_tile + (row + 32 * i) * Tile<T>::w_pitch + quarter * own;
      GHOST_UNROLL
      for (int j = 0; j < own; j += 4) *(threadgroup float4*)(to + j) = decode_byte(mine >> (2 * j), c);
    }
    next.store(x_tile, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (k0 + depth < p.K) next.load(x, p.M, p.K, m0, k0 + depth, thread_index);
    result.template multiply<true>(x_tile, w_tile);
    result.keep(k0 + depth);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  result.store(y, p.M, p.N, m0, n0, lane);
}

// y = x W, the same tiles: a step decodes `depth` rows of 64 columns, one word of four threads each.
// Grid: threadgroups (ceil(K / 64), ceil(M / 64)) of 128.
template <typename T>
[[kernel]] void codebook_matmul_n_tiled(const device T* x [[buffer(0)]],
                                        const device uint* codes [[buffer(1)]],
                                        const device float* codebook [[buffer(2)]], device T* y [[buffer(3)]],
                                        constant CodebookMatmulParams& p [[buffer(4)]],
                                        uint3 group [[threadgroup_position_in_grid]],
                                        uint thread_index [[thread_index_in_threadgroup]],
                                        uint lane [[thread_index_in_simdgroup]],
                                        uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr int depth = Tile<T>::depth;
  constexpr int own = depth / 2;        // codes a thread decodes a step, of one row: 16 or 8
  constexpr int sharers = kTile / own;  // threads of a row
  threadgroup uint4 x_chunks[kTile * Tile<T>::x_pitch / Chunk<T>::size];
  threadgroup float4 w_chunks[depth * Tile<T>::wt_pitch / 4];
  threadgroup T* x_tile = (threadgroup T*)x_chunks;
  threadgroup float* w_tile = (threadgroup float*)w_chunks;

  const int k0 = int(group.x) * kTile;
  const int m0 = int(group.y) * kTile;
  const int words = p.K / 16;
  const int row = int(thread_index) / sharers;
  const int first = int(thread_index) % sharers * own;  // column in the tile
  const int column = k0 + first;
  const int shift = first % 16 * 2;

  TileOfY<T> result;
  result.start(lane, simdgroup);
  TileOfX<T> next;
  next.load(x, p.M, p.N, m0, 0, thread_index);
  uint next_codes = 0u;
  float4 next_levels = float4(0.0f);
  if (row < p.N && column < p.K) {
    next_codes = codes[size_t(row) * words + column / 16] >> shift;
    next_levels = load_levels(codebook + size_t(row) * p.codebook_stride +
                              (by_group ? 4 * (column >> p.group_shift) : 0));
  }

  for (int n0 = 0; n0 < p.N; n0 += depth) {
    threadgroup float* to = w_tile + row * Tile<T>::wt_pitch + first;
    GHOST_UNROLL
    for (int j = 0; j < own; j += 4) {
      *(threadgroup float4*)(to + j) = decode_byte(next_codes >> (2 * j), next_levels);
    }
    next.store(x_tile, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (n0 + depth < p.N) {
      next.load(x, p.M, p.N, m0, n0 + depth, thread_index);
      const int n = n0 + depth + row;
      next_levels = float4(0.0f);
      if (n < p.N && column < p.K) {
        next_codes = codes[size_t(n) * words + column / 16] >> shift;
        next_levels = load_levels(codebook + size_t(n) * p.codebook_stride +
                                  (by_group ? 4 * (column >> p.group_shift) : 0));
      }
    }
    result.template multiply<false>(x_tile, w_tile);
    result.keep(n0 + depth);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  result.store(y, p.M, p.K, m0, k0, lane);
}
