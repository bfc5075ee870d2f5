#pragma once

#include "causal_conv1d/params.h"
#include "common/elements.h"
#include "common/ragged.h"
#include "common/silu.h"

// Taps of a filter, 2 to 4. Filters are seen as kTaps wide with the missing taps in front.
constant int width [[function_constant(0)]];

constant constexpr const int kTaps = 4;
constant constexpr const int kTilesPerGroup = CausalConv1dLayout::tiles_per_group;
// Channels that the SIMD-groups of a threadgroup work on, and the pitch that keeps rows of staged filters,
// written with a stride of `width` channels, out of each other's banks.
constant constexpr const int kMaxChannels = 256;
constant constexpr const int kStagedPitch = kMaxChannels + 8;

// Filters and biases of a block of channels, from global memory (dim, width) to threadgroup memory (kTaps
// + 1, kStagedPitch): loads stay coalesced, and each lane then finds its channels side by side.
METAL_FUNC void stage_filters(const device float* weight, const device float* bias, int channel, int channels,
                              threadgroup float* staged, int thread_index, int threads) {
  for (int i = thread_index; i < channels * width; i += threads) {
    staged[(kTaps - width + i % width) * kStagedPitch + i / width] = weight[channel * width + i];
  }
  for (int i = thread_index; i < channels; i += threads) staged[kTaps * kStagedPitch + i] = bias[channel + i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

// N channels of a filter, and of the rows that it lies on: `rows[kTaps - 1]` is the newest.
template <typename T, int N>
struct Filter {
  typedef Elements<T, N> IO;
  float taps[kTaps][N];
  float bias[N];
  float rows[kTaps][N];

  METAL_FUNC void load(const threadgroup float* staged) thread {
    for (int k = 0; k < kTaps; ++k) {
      for (int i = 0; i < N; ++i) taps[k][i] = k >= kTaps - width ? staged[k * kStagedPitch + i] : 0.0f;
    }
    for (int i = 0; i < N; ++i) bias[i] = staged[kTaps * kStagedPitch + i];
  }

  // Puts the width - 1 rows before `row` where `push` will move them on. x and state at this lane's channels.
  METAL_FUNC void begin(const device T* x, const device T* state, SequenceRows sequence, int row,
                        constant CausalConv1dParams& p) thread {
    for (int k = 1; k < kTaps; ++k) {
      const int from = row - kTaps + k;
      typename IO::Raw raw = IO::zero();
      if (k > kTaps - width) {
        if (from >= sequence.begin) {
          raw = IO::fetch(x + size_t(from) * p.dim);
        } else if (p.has_state) {
          const int j = sequence.sequence * (width - 1) + (width - 1) + from - sequence.begin;
          raw = IO::fetch(state + size_t(j) * p.dim);
        }
      }
      IO::unpack(raw, rows[k]);
    }
  }

  METAL_FUNC void push(typename IO::Raw raw) thread {
    for (int k = 0; k + 1 < kTaps; ++k) {
      for (int i = 0; i < N; ++i) rows[k][i] = rows[k + 1][i];
    }
    IO::unpack(raw, rows[kTaps - 1]);
  }

  METAL_FUNC float apply(int i) const thread {
    float sum = bias[i];
    for (int k = 0; k < kTaps; ++k) {
      if (k >= kTaps - width) sum = fma(rows[k][i], taps[k][i], sum);
    }
    return sum;
  }
};

METAL_FUNC SequenceRows conv_sequence_of_row(const device int* cu_seqlens, int row, uint lane,
                                             constant CausalConv1dParams& p) {
  if (p.ragged) return sequence_of_row(cu_seqlens, p.batch, p.total, row, lane);
  const int sequence = row / p.seqlen;
  return SequenceRows{sequence, sequence * p.seqlen, (sequence + 1) * p.seqlen};
}

METAL_FUNC SequenceRows conv_next_sequence(SequenceRows rows, const device int* cu_seqlens,
                                           constant CausalConv1dParams& p) {
  if (p.ragged) return next_sequence(rows, cu_seqlens, p.batch, p.total);
  return SequenceRows{rows.sequence + 1, rows.end, rows.end + p.seqlen};
}

// True for a sequence without rows. All 32 lanes search together.
METAL_FUNC bool conv_rowless(const device int* cu_seqlens, int sequence, uint lane,
                             constant CausalConv1dParams& p) {
  if (!p.ragged) return p.seqlen == 0;
  const SequenceRows rows = rows_of_sequence(cu_seqlens, p.total, sequence, lane);
  return rows.begin == rows.end;
}

// The state of one sequence: copied, or zeros.
template <typename T, int N>
METAL_FUNC void copy_state(bool copied, const device T* from, device T* to, int sequence, int dim) {
  typedef Elements<T, N> IO;
  for (int j = sequence * (width - 1); j < (sequence + 1) * (width - 1); ++j) {
    IO::put(to + size_t(j) * dim, copied ? IO::fetch(from + size_t(j) * dim) : IO::zero());
  }
}
