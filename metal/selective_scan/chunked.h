#pragma once

#include "selective_scan/scan.h"

// One sequence on many threadgroups, where there are too few channels to fill the GPU. A segment maps the
// state before it to that after it by h -> a h + b, and its gradient backward in the same way; `a` is
// 2^(A' sum of delta). The first pass finds b of every segment, the ladder composes segments, and the third
// pass is the sequential kernel on every segment with the state or gradient that enters it.

// One pass of 16 states of a segment.
struct Summary {
  ScanBlock block;
  int sequence;
  int segment;
  int pass;
  int first;
  int stop;

  METAL_FUNC size_t part(constant SelectiveScanParams& p) const thread {
    return size_t(sequence) * size_t(p.segments) + size_t(segment);
  }
};

// Passes are spread over threadgroups as well. Equal sequences only.
METAL_FUNC Summary summary_of(uint3 threadgroup_at, constant SelectiveScanParams& p) {
  const int sequence = int(threadgroup_at.y);
  const int segment = int(threadgroup_at.z) % p.segments;
  const int first = segment * p.segment_rows;
  const int start = sequence * p.seqlen;
  return Summary{
      scan_block(int(threadgroup_at.x), p), sequence,      segment,
      int(threadgroup_at.z) / p.segments,   start + first, start + min(first + p.segment_rows, p.seqlen)};
}

// b of every segment and the sum of delta. Threadgroups (ngroups * ceil(dim / ngroups / 32), batch,
// segments * passes).
template <typename T>
[[kernel]] void selective_scan_fwd_summary(
    const device T* u [[buffer(0)]], const device T* delta [[buffer(1)]], const device float* A [[buffer(2)]],
    const device float* B [[buffer(3)]], const device float* delta_bias [[buffer(4)]],
    device float* states [[buffer(5)]], device float* durations [[buffer(6)]],
    constant SelectiveScanParams& p [[buffer(7)]], uint3 threadgroup_at [[threadgroup_position_in_grid]],
    uint thread_at [[thread_index_in_threadgroup]]) {
  threadgroup float2 steps[kTileRows * kChannels];  // (delta, delta u)
  threadgroup float4 tile_B[kTileRows * kStateQuads];
  const int tid = int(thread_at);
  const Summary at = summary_of(threadgroup_at, p);
  const int column = tid / 4;
  const int q = tid % 4;
  const int channel = at.block.channel + column;
  const bool live = channel < at.block.end;
  const StateQuad own = state_quad(channel, live, at.pass, q, p);
  const RowQuad mine = row_quad(tid, at.block);
  const float4 bias = load4(delta_bias + mine.channel, p.has_bias ? mine.count : 0, p.vector_rows);
  const float4 decay_rate = load4(A + own.offset, own.count, p.vector_states) * M_LOG2E_F;
  float4 h = float4(0.0f);
  float duration = 0.0f;
  for (int row = at.first; row < at.stop; row += kTileRows) {
    const int tile = min(kTileRows, at.stop - row);
    const int count = mine.row < tile ? mine.count : 0;
    const size_t from = size_t(row + mine.row) * size_t(p.dim) + size_t(mine.channel);
    const float4 input = load4(u + from, count, p.vector_rows);
    const float4 raw = load4(delta + from, count, p.vector_rows);
    const float4 size = count > 0 ? step_sizes(raw + bias, p) : float4(0.0f);
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) {
      steps[mine.row * kChannels + mine.column + i] = float2(size[i], size[i] * input[i]);
    }
    stage_projection(B, tile_B, at.block.group, row, tile, kTileRows, at.pass, tid, kThreads, p);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int t = 0; t < kTileRows; ++t) {
      const float2 step = steps[t * kChannels + column];
      h = fma(exp2(step.x * decay_rate), h, step.y * tile_B[t * kStateQuads + q]);
      duration += step.x;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  store4(states + at.part(p) * size_t(p.dim) * size_t(p.dstate) + own.offset, h, own.count, p.vector_states);
  if (live && q == 0 && at.pass == 0) durations[at.part(p) * size_t(p.dim) + size_t(channel)] = duration;
}

// The same for the gradient: that of the state before every segment from the rows of the segment alone.
template <typename T>
[[kernel]] void selective_scan_bwd_summary(
    const device T* delta [[buffer(0)]], const device float* A [[buffer(1)]],
    const device float* C [[buffer(2)]], const device T* z [[buffer(3)]],
    const device float* delta_bias [[buffer(4)]], const device T* dy [[buffer(5)]],
    device float* gradients [[buffer(6)]], device float* durations [[buffer(7)]],
    constant SelectiveScanParams& p [[buffer(8)]], uint3 threadgroup_at [[threadgroup_position_in_grid]],
    uint thread_at [[thread_index_in_threadgroup]]) {
  threadgroup float2 steps[kTileRows * kChannels];  // (delta, g)
  threadgroup float4 tile_C[kTileRows * kStateQuads];
  const int tid = int(thread_at);
  const Summary at = summary_of(threadgroup_at, p);
  const int column = tid / 4;
  const int q = tid % 4;
  const int channel = at.block.channel + column;
  const bool live = channel < at.block.end;
  const StateQuad own = state_quad(channel, live, at.pass, q, p);
  const RowQuad mine = row_quad(tid, at.block);
  const float4 bias = load4(delta_bias + mine.channel, p.has_bias ? mine.count : 0, p.vector_rows);
  const float4 decay_rate = load4(A + own.offset, own.count, p.vector_states) * M_LOG2E_F;
  float4 adjoint = float4(0.0f);
  float duration = 0.0f;
  const int tiles = (at.stop - at.first + kTileRows - 1) / kTileRows;
  for (int i_tile = tiles - 1; i_tile >= 0; --i_tile) {
    const int row = at.first + i_tile * kTileRows;
    const int tile = min(kTileRows, at.stop - row);
    const int count = mine.row < tile ? mine.count : 0;
    const size_t from = size_t(row + mine.row) * size_t(p.dim) + size_t(mine.channel);
    const float4 raw = load4(delta + from, count, p.vector_rows);
    float4 g = load4(dy + from, count, p.vector_rows);
    if (p.has_z) g *= silu4(load4(z + from, count, p.vector_rows));
    const float4 size = count > 0 ? step_sizes(raw + bias, p) : float4(0.0f);
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) steps[mine.row * kChannels + mine.column + i] = float2(size[i], g[i]);
    stage_projection(C, tile_C, at.block.group, row, tile, kTileRows, at.pass, tid, kThreads, p);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int t = kTileRows - 1; t >= 0; --t) {
      const float2 step = steps[t * kChannels + column];
      adjoint = exp2(step.x * decay_rate) * fma(float4(step.y), tile_C[t * kStateQuads + q], adjoint);
      duration += step.x;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  store4(gradients + at.part(p) * size_t(p.dim) * size_t(p.dstate) + own.offset, adjoint, own.count,
         p.vector_states);
  if (live && q == 0 && at.pass == 0) durations[at.part(p) * size_t(p.dim) + size_t(channel)] = duration;
}

constant constexpr const int kLadderLanes = SelectiveScanLayout::ladder_lanes;
constant constexpr const int kLadderSimdgroups = SelectiveScanLayout::ladder_threads / 32;
constant constexpr const int kPerSimdgroup = kLadderLanes / kLadderSimdgroups;
constant constexpr const int kLadderPitch = kLadderLanes + 1;  // columns and rows without bank conflicts

// In place: b of every segment becomes the state that enters it, walking from the first segment, or back from
// the last. 32 elements of the state and 32 segments at a time: lanes are elements where memory is read, and
// segments where they are composed, (a2, b2) after (a1, b1) being (a2 a1, a2 b1 + b2).
// Threadgroups (ceil(dim * dstate / 32), batch) of 256 threads.
[[kernel]] void selective_scan_ladder_float32(const device float* A [[buffer(0)]],
                                              const device float* durations [[buffer(1)]],
                                              const device float* state [[buffer(2)]],
                                              device float* states [[buffer(3)]],
                                              constant SelectiveScanLadderParams& p [[buffer(4)]],
                                              uint3 threadgroup_at [[threadgroup_position_in_grid]],
                                              uint lane [[thread_index_in_simdgroup]],
                                              uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float decays[kLadderLanes * kLadderPitch];
  threadgroup float values[kLadderLanes * kLadderPitch];
  const int size = p.dim * p.dstate;
  const int first = int(threadgroup_at.x) * kLadderLanes;
  const int element = first + int(lane);
  const size_t sequence = size_t(threadgroup_at.y);
  const float decay_rate = element < size ? A[element] * M_LOG2E_F : 0.0f;
  states += sequence * size_t(p.segments) * size_t(size);
  durations += sequence * size_t(p.segments) * size_t(p.dim);
  state += sequence * size_t(size);

  float entering[kPerSimdgroup];  // the state before the segments to come, of this SIMD-group's elements
  GHOST_UNROLL
  for (int i = 0; i < kPerSimdgroup; ++i) {
    const int own = first + int(simdgroup) * kPerSimdgroup + i;
    entering[i] = p.has_state && own < size ? state[own] : 0.0f;
  }
  for (int done = 0; done < p.segments; done += kLadderLanes) {
    for (int i = int(simdgroup); i < kLadderLanes; i += kLadderSimdgroups) {
      const bool there = done + i < p.segments && element < size;
      const int segment = p.reverse ? p.segments - 1 - (done + i) : done + i;
      float decay = 1.0f;
      float value = 0.0f;
      if (there) {
        decay = exp2(decay_rate * durations[size_t(segment) * size_t(p.dim) + size_t(element / p.dstate)]);
        value = states[size_t(segment) * size_t(size) + size_t(element)];
      }
      decays[i * kLadderPitch + int(lane)] = decay;
      values[i * kLadderPitch + int(lane)] = value;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    GHOST_UNROLL
    for (int i = 0; i < kPerSimdgroup; ++i) {
      const int at = int(lane) * kLadderPitch + int(simdgroup) * kPerSimdgroup + i;
      float decay = decays[at];
      float value = values[at];
      for (uint distance = 1; distance < 32; distance *= 2) {
        const float decay_before = simd_shuffle_up(decay, ushort(distance));
        const float value_before = simd_shuffle_up(value, ushort(distance));
        if (lane >= distance) {
          value = fma(decay, value_before, value);
          decay *= decay_before;
        }
      }
      const float decay_before = simd_shuffle_up(decay, ushort(1));
      const float value_before = simd_shuffle_up(value, ushort(1));
      values[at] = lane == 0 ? entering[i] : fma(decay_before, entering[i], value_before);
      entering[i] = fma(simd_broadcast(decay, ushort(31)), entering[i], simd_broadcast(value, ushort(31)));
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (int i = int(simdgroup); i < kLadderLanes; i += kLadderSimdgroups) {
      if (done + i >= p.segments || element >= size) continue;
      const int segment = p.reverse ? p.segments - 1 - (done + i) : done + i;
      states[size_t(segment) * size_t(size) + size_t(element)] = values[i * kLadderPitch + int(lane)];
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
