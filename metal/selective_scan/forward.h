#pragma once

#include "selective_scan/scan.h"

// y, the states after the last rows and, when saving, the states between chunks, (chunks, dim, dstate). With
// segments, `state` has that before every segment of every sequence. Where dstate takes several passes,
// `carried` keeps states from tile to tile.
// Threadgroups (ngroups * ceil(dim / ngroups / 32), max(batch, 1), segments).
template <typename T>
[[kernel]] void selective_scan_fwd(
    const device T* u [[buffer(0)]], const device T* delta [[buffer(1)]], const device float* A [[buffer(2)]],
    const device float* B [[buffer(3)]], const device float* C [[buffer(4)]],
    const device float* D [[buffer(5)]], const device T* z [[buffer(6)]],
    const device float* delta_bias [[buffer(7)]], const device float* state [[buffer(8)]],
    const device int* cu_seqlens [[buffer(9)]], device T* y [[buffer(10)]],
    device float* last_state [[buffer(11)]], device float* saved [[buffer(12)]],
    device float* carried [[buffer(13)]], constant SelectiveScanParams& p [[buffer(14)]],
    uint3 threadgroup_at [[threadgroup_position_in_grid]], uint thread_at [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  threadgroup float2 steps[kTileRows * kChannels];  // (delta, delta u), then (y, )
  threadgroup float4 tile_B[kTileRows * kStateQuads];
  threadgroup float4 tile_C[kTileRows * kStateQuads];

  const int tid = int(thread_at);
  const ScanBlock block = scan_block(int(threadgroup_at.x), p);
  const SequenceRows rows = scan_rows(cu_seqlens, int(threadgroup_at.y), lane, p);
  const int segment = int(threadgroup_at.z);
  const int first = rows.begin + segment * p.segment_rows;
  const bool last_segment = segment == p.segments - 1;
  const int stop = last_segment ? rows.end : first + p.segment_rows;
  zero_gaps(y, size_t(p.dim), rows, block.channel, block.end, tid, p);
  if (p.batch == 0) return;

  const int column = tid / 4;
  const int q = tid % 4;
  const int channel = block.channel + column;
  const bool live = channel < block.end;
  const size_t state_size = size_t(p.dim) * size_t(p.dstate);
  const int passes = num_passes(p);
  state += (size_t(rows.sequence) * size_t(p.segments) + size_t(segment)) * state_size;
  carried += (size_t(rows.sequence) * size_t(p.segments) + size_t(segment)) * state_size;
  last_state += size_t(rows.sequence) * state_size;

  if (first >= stop) {
    for (int pass = 0; last_segment && pass < passes; ++pass) {
      const StateQuad at = state_quad(channel, live, pass, q, p);
      const float4 h = load4(state + at.offset, p.has_state ? at.count : 0, p.vector_states);
      store4(last_state + at.offset, h, at.count, p.vector_states);
    }
    return;
  }

  const RowQuad mine = row_quad(tid, block);
  const float4 skip = load4(D + mine.channel, p.has_D ? mine.count : 0, p.vector_rows);
  const float4 bias = load4(delta_bias + mine.channel, p.has_bias ? mine.count : 0, p.vector_rows);
  float4 decay_rate = float4(0.0f);  // A log2(e)
  float4 h = float4(0.0f);

  for (int row = first; row < stop; row += kTileRows) {
    const int tile = min(kTileRows, stop - row);
    const bool first_tile = row == first;
    const bool last_tile = row + kTileRows >= stop;
    const int count = mine.row < tile ? mine.count : 0;
    const size_t at = size_t(row + mine.row) * size_t(p.dim) + size_t(mine.channel);
    const float4 input = load4(u + at, count, p.vector_rows);
    const float4 raw = load4(delta + at, count, p.vector_rows);
    const float4 gate = load4(z + at, p.has_z ? count : 0, p.vector_rows);
    // Steps of size zero behind the last row leave the state as it is.
    const float4 size = count > 0 ? step_sizes(raw + bias, p) : float4(0.0f);
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) {
      steps[mine.row * kChannels + mine.column + i] = float2(size[i], size[i] * input[i]);
    }

    float4 sums = float4(0.0f);  // of steps q, 4 + q, 8 + q, 12 + q
    for (int pass = 0; pass < passes; ++pass) {
      if (pass > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
      // Half of the threads each.
      if (tid < kThreads / 2) {
        stage_projection(B, tile_B, block.group, row, tile, kTileRows, pass, tid, kThreads / 2, p);
      } else {
        stage_projection(C, tile_C, block.group, row, tile, kTileRows, pass, tid - kThreads / 2, kThreads / 2,
                         p);
      }
      const StateQuad states = state_quad(channel, live, pass, q, p);
      if (first_tile || passes > 1) {
        decay_rate = load4(A + states.offset, states.count, p.vector_states) * M_LOG2E_F;
        if (first_tile) {
          h = load4(state + states.offset, p.has_state ? states.count : 0, p.vector_states);
        } else {
          h = load4(carried + states.offset, states.count, p.vector_states);
        }
      }
      const int done = row - rows.begin;
      if (p.saving && done > 0 && done % kChunk == 0) {
        const size_t slot = first_saved(rows, p) + size_t(done / kChunk - 1);
        store4(saved + slot * state_size + states.offset, h, states.count, p.vector_states);
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      GHOST_UNROLL
      for (int k = 0; k < 4; ++k) {
        float4 partial;
        GHOST_UNROLL
        for (int i = 0; i < 4; ++i) {
          const int t = 4 * k + i;
          const float2 step = steps[t * kChannels + column];
          const float4 input_states = step.y * tile_B[t * kStateQuads + q];
          h = fma(exp2(step.x * decay_rate), h, input_states);
          partial[i] = dot(tile_C[t * kStateQuads + q], h);
        }
        sums[k] += quad_sums(partial, lane);
      }
      if (last_tile) {
        if (last_segment) store4(last_state + states.offset, h, states.count, p.vector_states);
      } else if (passes > 1) {
        store4(carried + states.offset, h, states.count, p.vector_states);
      }
    }
    // The channel's own lanes have read its steps.
    simdgroup_barrier(mem_flags::mem_threadgroup);
    GHOST_UNROLL
    for (int k = 0; k < 4; ++k) steps[(4 * k + q) * kChannels + column].x = sums[k];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float4 out = skip * input;
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) out[i] += steps[mine.row * kChannels + mine.column + i].x;
    if (p.has_z) out *= silu4(gate);
    store4(y + at, out, count, p.vector_rows);
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}
