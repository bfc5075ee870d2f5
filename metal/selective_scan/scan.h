#pragma once

#include "common/elements.h"
#include "common/ragged.h"
#include "common/silu.h"
#include "common/unroll.h"
#include "selective_scan/params.h"

// What the kernels of the scan share. A channel belongs to four neighbouring lanes, and lane q of them keeps
// the states 4q to 4q + 3 of every pass of 16 in a float4.

constant constexpr const int kChannels = SelectiveScanLayout::channels;
constant constexpr const int kThreads = SelectiveScanLayout::threads;
constant constexpr const int kSimdgroups = kThreads / 32;
constant constexpr const int kPassStates = SelectiveScanLayout::pass_states;
constant constexpr const int kStateQuads = kPassStates / 4;
constant constexpr const int kChunk = SelectiveScanLayout::chunk;
// Rows that the threads of a threadgroup load at once, four channels each.
constant constexpr const int kTileRows = 4 * kThreads / kChannels;

// log(1 + exp(x)), linear above 20. Rounding 1 + e loses digits of a small e: the quotient brings them back.
METAL_FUNC float softplus(float x) {
  if (x > 20.0f) return x;
  const float e = precise::exp(x);
  const float s = 1.0f + e;
  return s == 1.0f ? e : precise::log(s) * (e / (s - 1.0f));
}

// The derivative of softplus where its value is d: 1 - exp(-d), with the digits that the difference loses
// brought back in the same way.
METAL_FUNC float softplus_slope(float d) {
  const float e = precise::exp(-d);
  if (d > 1.0f) return 1.0f - e;
  return e == 1.0f ? d : (1.0f - e) * (d / -precise::log(e));
}

// Four elements, of which the first `count` exist; the others are zero. With `vector` four or none do, and
// they are one load.
template <typename T>
METAL_FUNC float4 load4(const device T* p, int count, int vector) {
  float v[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  if (vector) {
    if (count > 0) Elements<T, 4>::unpack(Elements<T, 4>::fetch(p), v);
  } else {
    for (int i = 0; i < 4; ++i) {
      if (i < count) v[i] = float(p[i]);
    }
  }
  return float4(v[0], v[1], v[2], v[3]);
}

template <typename T>
METAL_FUNC void store4(device T* p, float4 value, int count, int vector) {
  const float v[4] = {value.x, value.y, value.z, value.w};
  if (vector) {
    if (count > 0) Elements<T, 4>::put(p, Elements<T, 4>::pack(v));
  } else {
    for (int i = 0; i < 4; ++i) {
      if (i < count) p[i] = T(v[i]);
    }
  }
}

// Lane q of a quad gets the quad's sum of component q.
METAL_FUNC float quad_sums(float4 v, uint lane) {
  const bool upper = (lane & 2u) != 0u;
  const bool odd = (lane & 1u) != 0u;
  const float2 kept = (upper ? v.zw : v.xy) + simd_shuffle_xor(upper ? v.xy : v.zw, ushort(2));
  return (odd ? kept.y : kept.x) + simd_shuffle_xor(odd ? kept.x : kept.y, ushort(1));
}

// Where a threadgroup is: channels [channel, end) of a group, block `index` of the group.
struct ScanBlock {
  int group;
  int index;
  int channel;
  int end;
};

METAL_FUNC ScanBlock scan_block(int block, constant SelectiveScanParams& p) {
  const int group_dim = p.dim / p.ngroups;
  const int blocks = (group_dim + kChannels - 1) / kChannels;
  const int group = block / blocks;
  const int index = block % blocks;
  const int channel = group * group_dim + index * kChannels;
  return ScanBlock{group, index, channel, min(channel + kChannels, (group + 1) * group_dim)};
}

// The rows of a sequence. Where there is none, all rows come before it.
METAL_FUNC SequenceRows scan_rows(const device int* cu_seqlens, int sequence, uint lane,
                                  constant SelectiveScanParams& p) {
  if (!p.ragged) return SequenceRows{sequence, sequence * p.seqlen, (sequence + 1) * p.seqlen};
  if (p.batch == 0) return SequenceRows{0, p.total, p.total};
  return rows_of_sequence(cu_seqlens, p.total, sequence, lane);
}

// Columns [column, end) of rows [first, stop) become zero: those before the first sequence and after the
// last.
template <typename T>
METAL_FUNC void zero_rows(device T* p, size_t pitch, int first, int stop, int column, int end, int tid) {
  const int columns = end - column;
  for (int i = tid; i < (stop - first) * columns; i += kThreads) {
    p[size_t(first + i / columns) * pitch + size_t(column + i % columns)] = T(0.0f);
  }
}

template <typename T>
METAL_FUNC void zero_gaps(device T* p, size_t pitch, SequenceRows rows, int column, int end, int tid,
                          constant SelectiveScanParams& params) {
  if (!params.ragged) return;
  if (rows.sequence == 0) zero_rows(p, pitch, 0, rows.begin, column, end, tid);
  if (rows.sequence + 1 >= params.batch) zero_rows(p, pitch, rows.end, params.total, column, end, tid);
}

// The slot of the state before chunk 1 of a sequence; that before chunk i is i - 1 slots on. Ragged sequences
// need no more slots than their rows have chunks, so that where they begin tells slots of their own.
METAL_FUNC size_t first_saved(SequenceRows rows, constant SelectiveScanParams& p) {
  if (p.ragged) return size_t(rows.begin / kChunk);
  return size_t(rows.sequence) * size_t((p.seqlen - 1) / kChunk);
}

// The quad of states that a lane has of a channel in a pass, in operands (..., dim, dstate).
struct StateQuad {
  size_t offset;
  int count;  // of them that exist
};

METAL_FUNC StateQuad state_quad(int channel, bool live, int pass, int q, constant SelectiveScanParams& p) {
  const int state = pass * kPassStates + 4 * q;
  return StateQuad{size_t(channel) * size_t(p.dstate) + size_t(state), live ? p.dstate - state : 0};
}

METAL_FUNC int num_passes(constant SelectiveScanParams& p) {
  return (p.dstate + kPassStates - 1) / kPassStates;
}

// B or C of `rows` rows from `row` on and the states of a pass, for all of `tile` rows: the threads from
// `tid` on, `threads` in number, bring a quad each, row by row.
METAL_FUNC void stage_projection(const device float* from, threadgroup float4* to, int group, int row,
                                 int rows, int tile, int pass, int tid, int threads,
                                 constant SelectiveScanParams& p) {
  for (int i = tid; i < tile * kStateQuads; i += threads) {
    const int t = i / kStateQuads;
    const int state = pass * kPassStates + 4 * (i % kStateQuads);
    const size_t at =
        (size_t(row + t) * size_t(p.ngroups) + size_t(group)) * size_t(p.dstate) + size_t(state);
    to[i] = load4(from + at, t < rows ? p.dstate - state : 0, p.vector_states);
  }
}

// Four channels of a row: the first and how many exist.
struct RowQuad {
  int row;     // in a tile
  int column;  // in a block
  int channel;
  int count;
};

METAL_FUNC RowQuad row_quad(int tid, ScanBlock block) {
  const int column = 4 * (tid % (kChannels / 4));
  return RowQuad{tid / (kChannels / 4), column, block.channel + column, block.end - block.channel - column};
}

METAL_FUNC float4 step_sizes(float4 delta, constant SelectiveScanParams& p) {
  if (p.softplus) {
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) delta[i] = softplus(delta[i]);
  }
  return delta;
}

METAL_FUNC float4 silu4(float4 z) { return float4(silu(z.x), silu(z.y), silu(z.z), silu(z.w)); }
