#pragma once

#include "causal_conv1d/causal_conv1d.h"

// Rows of x and dy that are on their way while others are computed with.
constant constexpr const int kBackwardFlight = 2;
constant constexpr const int kBackwardPack = CausalConv1dLayout::backward_pack;

// What a lane reads and writes, at its channels.
template <typename T>
struct BackwardRows {
  const device T* x;
  const device T* state;
  const device T* dy;
  const device T* dlast;
  device T* dx;
  device T* dstate;
};

// Walks down the rows with the last kTaps of them and of their cotangents before the activation, q. The
// gradient of a row is complete width - 1 rows later:  dx[t] = sum_k taps[k] q[t + width - 1 - k].
template <typename T, int N>
struct Backward {
  typedef Elements<T, N> IO;
  Filter<T, N> filter;
  float q[kTaps][N];
  float sums[kTaps + 1][N];  // of q * rows, for each tap, then of q

  METAL_FUNC void clear_sums() thread {
    for (int k = 0; k <= kTaps; ++k) {
      for (int i = 0; i < N; ++i) sums[k][i] = 0.0f;
    }
  }

  METAL_FUNC void clear_q() thread {
    for (int k = 0; k < kTaps; ++k) {
      for (int i = 0; i < N; ++i) q[k][i] = 0.0f;
    }
  }

  METAL_FUNC void push_q(const thread float* newest) thread {
    for (int i = 0; i < N; ++i) {
      for (int k = 0; k + 1 < kTaps; ++k) q[k][i] = q[k + 1][i];
      q[kTaps - 1][i] = newest[i];
    }
  }

  METAL_FUNC void push(typename IO::Raw x, typename IO::Raw dy, bool silu_on) thread {
    filter.push(x);
    float newest[N];
    IO::unpack(dy, newest);
    for (int i = 0; i < N; ++i) {
      if (silu_on) newest[i] *= silu_gradient(filter.apply(i));
    }
    push_q(newest);
  }

  METAL_FUNC void add_to_sums() thread {
    for (int i = 0; i < N; ++i) {
      for (int k = 0; k < kTaps; ++k) sums[k][i] = fma(q[kTaps - 1][i], filter.rows[k][i], sums[k][i]);
      sums[kTaps][i] += q[kTaps - 1][i];
    }
  }

  // The gradient that `row` completes, of a row of the run that begins at `first`, or of the state.
  METAL_FUNC void emit(BackwardRows<T> rows, SequenceRows sequence, int first, int row,
                       constant CausalConv1dParams& p) const thread {
    const int keep = width - 1;
    const bool of_state = row - keep < first;
    if (of_state && !(first == sequence.begin && p.has_state)) return;
    float sum[N];
    if (row >= sequence.end) {
      const int j = sequence.sequence * keep + row - sequence.end;
      IO::unpack(IO::fetch(rows.dlast + size_t(j) * p.dim), sum);
    } else {
      for (int i = 0; i < N; ++i) sum[i] = 0.0f;
    }
    for (int k = 0; k < kTaps; ++k) {
      if (k < kTaps - width) continue;
      for (int i = 0; i < N; ++i) sum[i] = fma(q[k][i], filter.taps[2 * kTaps - 1 - width - k][i], sum[i]);
    }
    if (of_state) {
      const int j = sequence.sequence * keep + row - sequence.begin;
      IO::put(rows.dstate + size_t(j) * p.dim, IO::pack(sum));
    } else {
      IO::put(rows.dx + size_t(row - keep) * p.dim, IO::pack(sum));
    }
  }

  METAL_FUNC void step(typename IO::Raw x, typename IO::Raw dy, BackwardRows<T> rows, SequenceRows sequence,
                       int first, int stop, int row, constant CausalConv1dParams& p) thread {
    push(x, dy, p.silu);
    if (row < stop) add_to_sums();
    emit(rows, sequence, first, row, p);
  }

  // Gradients of rows [first, stop) of one sequence, which need q of the width - 1 rows after them too.
  METAL_FUNC void run(BackwardRows<T> rows, SequenceRows sequence, int first, int stop,
                      constant CausalConv1dParams& p) thread {
    const int last = stop + width - 1;
    const int loaded = min(last, sequence.end);
    filter.begin(rows.x, rows.state, sequence, first, p);
    clear_q();
    int row = first;
    for (; row + kBackwardFlight <= loaded; row += kBackwardFlight) {
      typename IO::Raw x[kBackwardFlight];
      typename IO::Raw dy[kBackwardFlight];
      for (int i = 0; i < kBackwardFlight; ++i) x[i] = IO::fetch(rows.x + size_t(row + i) * p.dim);
      for (int i = 0; i < kBackwardFlight; ++i) dy[i] = IO::fetch(rows.dy + size_t(row + i) * p.dim);
      for (int i = 0; i < kBackwardFlight; ++i) step(x[i], dy[i], rows, sequence, first, stop, row + i, p);
    }
    for (; row < loaded; ++row) {
      step(IO::fetch(rows.x + size_t(row) * p.dim), IO::fetch(rows.dy + size_t(row) * p.dim), rows, sequence,
           first, stop, row, p);
    }
    // Past the end of the sequence there is nothing but the cotangent of its last state.
    float none[N];
    for (int i = 0; i < N; ++i) none[i] = 0.0f;
    for (; row < last; ++row) {
      push_q(none);
      emit(rows, sequence, first, row, p);
    }
  }
};

// One SIMD-group: a tile of rows, or a sequence without rows, on 32 packs of N channels.
template <typename T, int N>
METAL_FUNC void backward_tile(BackwardRows<T> rows, const device float* weight, const device float* bias,
                              const device int* cu_seqlens, device float* partials,
                              constant CausalConv1dParams& p, threadgroup float* staged, uint3 group,
                              uint simdgroup, uint lane) {
  typedef Elements<T, N> IO;
  const int block = int(group.x) * 32 * N;
  stage_filters(weight, bias, block, min(32 * N, p.dim - block), staged, int(simdgroup * 32 + lane),
                32 * kTilesPerGroup);
  const int tile = int(group.y) * kTilesPerGroup + int(simdgroup);
  const int channel = block + int(lane) * N;
  const bool active = channel < p.dim;
  rows = BackwardRows<T>{rows.x + channel,     rows.state + channel, rows.dy + channel,
                         rows.dlast + channel, rows.dx + channel,    rows.dstate + channel};

  if (tile >= p.tiles) {
    const int sequence = tile - p.tiles;
    if (!p.has_state) {
      // The gradient of a state that was not given is one state of zeros.
      if (active && sequence == 0) copy_state<T, N>(false, rows.dlast, rows.dstate, 0, p.dim);
      return;
    }
    const bool rowless = sequence < p.batch && conv_rowless(cu_seqlens, sequence, lane, p);
    if (active && rowless) copy_state<T, N>(true, rows.dlast, rows.dstate, sequence, p.dim);
    return;
  }

  int row = tile * p.tile_rows;
  const int stop = min(row + p.tile_rows, p.total);
  SequenceRows sequence = conv_sequence_of_row(cu_seqlens, row, lane, p);
  if (!active) return;
  Backward<T, N> backward;
  backward.filter.load(staged + lane * N);
  backward.clear_sums();
  while (row < stop) {
    const int end = min(stop, sequence.end);
    if (is_gap(sequence, p.batch)) {
      for (; row < end; ++row) IO::put(rows.dx + size_t(row) * p.dim, IO::zero());
    } else if (row < end) {
      backward.run(rows, sequence, row, end, p);
      row = end;
    }
    sequence = conv_next_sequence(sequence, cu_seqlens, p);
  }
  device float* partial = partials + size_t(tile) * (width + 1) * p.dim + channel;
  for (int k = 0; k <= kTaps; ++k) {
    if (k < kTaps - width) continue;
    Elements<float, N>::put(partial + size_t(k - (kTaps - width)) * p.dim,
                            Elements<float, N>::pack(backward.sums[k]));
  }
}

// dx and dstate, and for each tile its share of dweight and dbias: partials (tiles, width + 1, dim).
// Threadgroups (ceil(packs / 32), ceil((tiles + sequences without rows) / kTilesPerGroup)) of 32 *
// kTilesPerGroup threads.
template <typename T>
[[kernel]] void causal_conv1d_bwd(const device T* x [[buffer(0)]], const device float* weight [[buffer(1)]],
                                  const device float* bias [[buffer(2)]], const device T* state [[buffer(3)]],
                                  const device int* cu_seqlens [[buffer(4)]],
                                  const device T* dy [[buffer(5)]], const device T* dlast [[buffer(6)]],
                                  device T* dx [[buffer(7)]], device T* dstate [[buffer(8)]],
                                  device float* partials [[buffer(9)]],
                                  constant CausalConv1dParams& p [[buffer(10)]],
                                  uint3 group [[threadgroup_position_in_grid]],
                                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                                  uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float staged[(kTaps + 1) * kStagedPitch];
  const BackwardRows<T> rows{x, state, dy, dlast, dx, dstate};
  if (p.vector) {
    backward_tile<T, kBackwardPack>(rows, weight, bias, cu_seqlens, partials, p, staged, group, simdgroup,
                                    lane);
  } else {
    backward_tile<T, 1>(rows, weight, bias, cu_seqlens, partials, p, staged, group, simdgroup, lane);
  }
}

// Each SIMD-group sums every kSumGroups-th tile.
constant constexpr const int kSumGroups = CausalConv1dLayout::sum_groups;
// Pitch of a row of 32 sums; with 8 more, four rows read side by side are in different banks.
constant constexpr const int kSumPitch = 40;

// dweight (dim, width) and dbias from the partial sums, in an order that depends on nothing but the number of
// tiles. Threadgroups ceil(dim / 32) of 32 * kSumGroups threads.
[[kernel]] void causal_conv1d_bwd_sum_float32(const device float* partials [[buffer(0)]],
                                              device float* dweight [[buffer(1)]],
                                              device float* dbias [[buffer(2)]],
                                              constant CausalConv1dSumParams& p [[buffer(3)]],
                                              uint3 group [[threadgroup_position_in_grid]],
                                              uint simdgroup [[simdgroup_index_in_threadgroup]],
                                              uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float sums[kSumGroups * (kTaps + 1) * kSumPitch];
  const int block = int(group.x) * 32;
  const int channel = block + int(lane);
  float sum[kTaps + 1];
  for (int k = 0; k <= kTaps; ++k) sum[k] = 0.0f;
  if (channel < p.dim) {
    for (int tile = int(simdgroup); tile < p.tiles; tile += kSumGroups) {
      const device float* partial = partials + size_t(tile) * (width + 1) * p.dim + channel;
      for (int k = 0; k <= kTaps; ++k) {
        if (k <= width) sum[k] += partial[size_t(k) * p.dim];
      }
    }
  }
  for (int k = 0; k <= kTaps; ++k) {
    sums[(int(simdgroup) * (kTaps + 1) + k) * kSumPitch + int(lane)] = sum[k];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // Thread i finishes element i of this block of dweight; those after it finish dbias.
  const int i = int(simdgroup * 32 + lane);
  const bool of_bias = i >= 32 * width;
  const int k = of_bias ? width : i % width;
  const int column = of_bias ? i - 32 * width : i / width;
  if (column >= 32 || block + column >= p.dim) return;
  float total = 0.0f;
  for (int g = 0; g < kSumGroups; ++g) total += sums[(g * (kTaps + 1) + k) * kSumPitch + column];
  if (of_bias) {
    dbias[block + column] = total;
  } else {
    dweight[block * width + i] = total;
  }
}
