#pragma once

#include "causal_conv1d/causal_conv1d.h"

// Rows of x that are on their way while others are computed with.
constant constexpr const int kForwardFlight = 4;

template <typename T, int N>
struct Forward {
  typedef Elements<T, N> IO;
  Filter<T, N> filter;

  METAL_FUNC void row(typename IO::Raw raw, device T* y, int silu_on) thread {
    filter.push(raw);
    float out[N];
    for (int i = 0; i < N; ++i) {
      const float v = filter.apply(i);
      out[i] = silu_on ? silu(v) : v;
    }
    IO::put(y, IO::pack(out));
  }

  // The width - 1 rows that the filter lies on before the next row of `sequence`.
  METAL_FUNC void save(device T* last_state, int sequence, int dim) const thread {
    for (int k = 1; k < kTaps; ++k) {
      if (k <= kTaps - width) continue;
      const int j = sequence * (width - 1) + k - (kTaps - width + 1);
      IO::put(last_state + size_t(j) * dim, IO::pack(filter.rows[k]));
    }
  }

  // Rows [row, stop) of one sequence.
  METAL_FUNC void run(const device T* x, device T* y, int row, int stop, int dim, int silu_on) thread {
    for (; row + kForwardFlight <= stop; row += kForwardFlight) {
      typename IO::Raw raw[kForwardFlight];
      for (int i = 0; i < kForwardFlight; ++i) raw[i] = IO::fetch(x + size_t(row + i) * dim);
      for (int i = 0; i < kForwardFlight; ++i) this->row(raw[i], y + size_t(row + i) * dim, silu_on);
    }
    for (; row < stop; ++row) this->row(IO::fetch(x + size_t(row) * dim), y + size_t(row) * dim, silu_on);
  }
};

// One SIMD-group: a tile of rows, or a sequence without rows, on 32 packs of N channels.
template <typename T, int N>
METAL_FUNC void forward_tile(const device T* x, const device float* weight, const device float* bias,
                             const device T* state, const device int* cu_seqlens, device T* y,
                             device T* last_state, constant CausalConv1dParams& p, threadgroup float* staged,
                             uint3 group, uint simdgroup, uint lane) {
  typedef Elements<T, N> IO;
  const int block = int(group.x) * 32 * N;
  stage_filters(weight, bias, block, min(32 * N, p.dim - block), staged, int(simdgroup * 32 + lane),
                32 * kTilesPerGroup);
  const int tile = int(group.y) * kTilesPerGroup + int(simdgroup);
  const int channel = block + int(lane) * N;
  const bool active = channel < p.dim;
  x += channel;
  state += channel;
  y += channel;
  last_state += channel;

  if (tile >= p.tiles) {
    const int sequence = tile - p.tiles;
    const bool rowless = sequence < p.batch && conv_rowless(cu_seqlens, sequence, lane, p);
    // What was kept before is what is kept.
    if (active && rowless) copy_state<T, N>(p.has_state, state, last_state, sequence, p.dim);
    return;
  }

  int row = tile * p.tile_rows;
  const int stop = min(row + p.tile_rows, p.total);
  SequenceRows sequence = conv_sequence_of_row(cu_seqlens, row, lane, p);
  if (!active) return;
  Forward<T, N> forward;
  forward.filter.load(staged + lane * N);
  while (row < stop) {
    const int end = min(stop, sequence.end);
    if (is_gap(sequence, p.batch)) {
      for (; row < end; ++row) IO::put(y + size_t(row) * p.dim, IO::zero());
    } else if (row < end) {
      forward.filter.begin(x, state, sequence, row, p);
      forward.run(x, y, row, end, p.dim, p.silu);
      if (end == sequence.end) forward.save(last_state, sequence.sequence, p.dim);
      row = end;
    }
    sequence = conv_next_sequence(sequence, cu_seqlens, p);
  }
}

// y and last_state. Threadgroups (ceil(packs / 32), ceil((tiles + sequences without rows) / kTilesPerGroup))
// of 32 * kTilesPerGroup threads.
template <typename T>
[[kernel]] void causal_conv1d_fwd(const device T* x [[buffer(0)]], const device float* weight [[buffer(1)]],
                                  const device float* bias [[buffer(2)]], const device T* state [[buffer(3)]],
                                  const device int* cu_seqlens [[buffer(4)]], device T* y [[buffer(5)]],
                                  device T* last_state [[buffer(6)]],
                                  constant CausalConv1dParams& p [[buffer(7)]],
                                  uint3 group [[threadgroup_position_in_grid]],
                                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                                  uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float staged[(kTaps + 1) * kStagedPitch];
  if (p.vector) {
    forward_tile<T, Pack<T>::size>(x, weight, bias, state, cu_seqlens, y, last_state, p, staged, group,
                                   simdgroup, lane);
  } else {
    forward_tile<T, 1>(x, weight, bias, state, cu_seqlens, y, last_state, p, staged, group, simdgroup, lane);
  }
}
