#pragma once

#include "selective_scan/scan.h"

// The backward of one segment at a time: chunks of 32 rows, last to first. Within a chunk the states are
// computed again from the saved one, first those that begin each eight rows, then four rows of states in
// registers at a time (more would not fit), from which the adjoint recurrence runs back:
//   q[t] = g[t] C[t] + a[t + 1] q[t + 1]
//   dC = g h    dB = q delta u    du = delta sum_n q B + g D    dA = sum_t delta q a h[t - 1]
//   ddelta = u sum_n q B + sum_n A q a h[t - 1]
// Nothing divides by a decay. dB and dC are sums over channels: eight by shuffles, the four SIMD-groups in
// threadgroup memory, and blocks of 32 channels by another kernel.

// More than 16 states: several passes over every chunk, between which sums over states stay in registers.
constant bool kManyPasses [[function_constant(0)]];

constant constexpr const int kEight = 8;
constant constexpr const int kWindow = 4;  // rows whose sums are exchanged between barriers
// Values of dB and dC that a row has in a pass.
constant constexpr const int kShares = 2 * kPassStates;

// Eight values in every lane to their sums over the eight channels of a SIMD-group: lane l gets that of
// value l / 4, for the states of its own q.
METAL_FUNC float channel_sums(float4 low, float4 high, uint lane) {
  const bool b4 = (lane & 16u) != 0u;
  const bool b3 = (lane & 8u) != 0u;
  const bool b2 = (lane & 4u) != 0u;
  const float4 four = (b4 ? high : low) + simd_shuffle_xor(b4 ? low : high, ushort(16));
  const float2 two = (b3 ? four.zw : four.xy) + simd_shuffle_xor(b3 ? four.xy : four.zw, ushort(8));
  return (b2 ? two.y : two.x) + simd_shuffle_xor(b2 ? two.x : two.y, ushort(4));
}

METAL_FUNC float4 advance(float4 h, float2 step, float4 b, float4 decay_rate) {
  return fma(exp2(step.x * decay_rate), h, (step.x * step.y) * b);
}

// Sums over states of four channels of a row.
struct RowSums {
  float4 input;   // q B
  float4 decay;   // q a h[t - 1] A log2(e)
  float4 output;  // C h
};

// What the threads that loaded a row keep of it: two rows, 16 apart.
struct RowLoad {
  float4 dy;
  float4 gate;
};

// Threadgroups as those of the forward. With segments, `dlast` has the gradient of the state after every
// segment. dA, dD and dbias are partial sums per sequence and segment, dB and dC per block of channels.
// Where there are many passes, `carried` keeps q from chunk to chunk.
template <typename T>
[[kernel]] void selective_scan_bwd(
    const device T* u [[buffer(0)]], const device T* delta [[buffer(1)]], const device float* A [[buffer(2)]],
    const device float* B [[buffer(3)]], const device float* C [[buffer(4)]],
    const device float* D [[buffer(5)]], const device T* z [[buffer(6)]],
    const device float* delta_bias [[buffer(7)]], const device float* state [[buffer(8)]],
    const device int* cu_seqlens [[buffer(9)]], const device float* saved [[buffer(10)]],
    const device T* dy [[buffer(11)]], const device float* dlast [[buffer(12)]], device T* du [[buffer(13)]],
    device T* ddelta [[buffer(14)]], device float* dA [[buffer(15)]], device float* dB [[buffer(16)]],
    device float* dC [[buffer(17)]], device float* dD [[buffer(18)]], device T* dz [[buffer(19)]],
    device float* dbias [[buffer(20)]], device float* dstate [[buffer(21)]],
    device float* carried [[buffer(22)]], constant SelectiveScanParams& p [[buffer(23)]],
    uint3 threadgroup_at [[threadgroup_position_in_grid]], uint thread_at [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]], uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  // 16 KiB in all.
  threadgroup float2 steps[kChunk * kChannels];      // (delta, u)
  threadgroup float outputs[kTileRows * kChannels];  // g of half a chunk, then C h
  threadgroup float2 sums[kWindow * kChannels];      // over states: (input, decay)
  threadgroup float4 tile_B[kChunk * kStateQuads];
  threadgroup float4 tile_C[kTileRows * kStateQuads];         // of half a chunk
  threadgroup float shares[kWindow * kSimdgroups * kShares];  // of dB and dC

  const int tid = int(thread_at);
  const ScanBlock block = scan_block(int(threadgroup_at.x), p);
  const SequenceRows rows = scan_rows(cu_seqlens, int(threadgroup_at.y), lane, p);
  const int segment = int(threadgroup_at.z);
  const int first = rows.begin + segment * p.segment_rows;
  const int stop = segment == p.segments - 1 ? rows.end : first + p.segment_rows;
  const size_t projection_pitch = size_t(p.ngroups) * size_t(p.dstate);
  dB += size_t(block.index) * size_t(p.total) * projection_pitch;
  dC += size_t(block.index) * size_t(p.total) * projection_pitch;
  zero_gaps(du, size_t(p.dim), rows, block.channel, block.end, tid, p);
  zero_gaps(ddelta, size_t(p.dim), rows, block.channel, block.end, tid, p);
  if (p.has_z) zero_gaps(dz, size_t(p.dim), rows, block.channel, block.end, tid, p);
  zero_gaps(dB, projection_pitch, rows, block.group * p.dstate, (block.group + 1) * p.dstate, tid, p);
  zero_gaps(dC, projection_pitch, rows, block.group * p.dstate, (block.group + 1) * p.dstate, tid, p);
  if (p.batch == 0) return;

  const int column = tid / 4;
  const int q = tid % 4;
  const int channel = block.channel + column;
  const bool live = channel < block.end;
  const size_t state_size = size_t(p.dim) * size_t(p.dstate);
  const int passes = kManyPasses ? num_passes(p) : 1;
  const size_t part = size_t(rows.sequence) * size_t(p.segments) + size_t(segment);
  state += size_t(rows.sequence) * state_size;
  dstate += size_t(rows.sequence) * state_size;
  dlast += part * state_size;
  dA += part * state_size;
  carried += part * state_size;

  if (first >= stop) {
    for (int pass = 0; pass < passes; ++pass) {
      const StateQuad at = state_quad(channel, live, pass, q, p);
      const float4 adjoint = load4(dlast + at.offset, at.count, p.vector_states);
      if (p.has_state && segment == 0) store4(dstate + at.offset, adjoint, at.count, p.vector_states);
      store4(dA + at.offset, float4(0.0f), at.count, p.vector_states);
    }
  }

  const RowQuad mine = row_quad(tid, block);
  const float4 skip = load4(D + mine.channel, p.has_D ? mine.count : 0, p.vector_rows);
  float4 sum_D = float4(0.0f);
  float4 sum_bias = float4(0.0f);
  float4 decay_rate = float4(0.0f);  // A log2(e)
  float4 adjoint = float4(0.0f);     // q, decayed
  float4 grad_A = float4(0.0f);

  const int chunks = (stop - first + kChunk - 1) / kChunk;
  for (int chunk = chunks - 1; chunk >= 0; --chunk) {
    const int row = first + chunk * kChunk;
    const int tile = min(kChunk, stop - row);
    const bool last_chunk = chunk == chunks - 1;
    const float4 bias = load4(delta_bias + mine.channel, p.has_bias ? mine.count : 0, p.vector_rows);
    RowLoad loaded[2];
    GHOST_UNROLL
    for (int half_at = 0; half_at < 2; ++half_at) {
      const int t = mine.row + half_at * kTileRows;
      const int count = t < tile ? mine.count : 0;
      const size_t at = size_t(row + t) * size_t(p.dim) + size_t(mine.channel);
      const float4 input = load4(u + at, count, p.vector_rows);
      const float4 raw = load4(delta + at, count, p.vector_rows);
      loaded[half_at].dy = load4(dy + at, count, p.vector_rows);
      loaded[half_at].gate = load4(z + at, p.has_z ? count : 0, p.vector_rows);
      // Steps of size zero behind the last row let the adjoint pass.
      const float4 size = count > 0 ? step_sizes(raw + bias, p) : float4(0.0f);
      GHOST_UNROLL
      for (int i = 0; i < 4; ++i) steps[t * kChannels + mine.column + i] = float2(size[i], input[i]);
    }

    RowSums upper = RowSums{float4(0.0f), float4(0.0f), float4(0.0f)};
    RowSums lower = RowSums{float4(0.0f), float4(0.0f), float4(0.0f)};
    for (int pass = 0; pass < passes; ++pass) {
      if (pass > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
      stage_projection(B, tile_B, block.group, row, tile, kChunk, pass, tid, kThreads, p);
      const StateQuad states = state_quad(channel, live, pass, q, p);
      if (last_chunk || kManyPasses) {
        decay_rate = load4(A + states.offset, states.count, p.vector_states) * M_LOG2E_F;
        if (last_chunk) {
          adjoint = load4(dlast + states.offset, states.count, p.vector_states);
          grad_A = float4(0.0f);
        } else {
          adjoint = load4(carried + states.offset, states.count, p.vector_states);
          grad_A = load4(dA + states.offset, states.count, p.vector_states);
        }
      }
      float4 eights[kChunk / kEight];  // states before rows 0, 8, 16 and 24
      const int chunks_before = (row - rows.begin) / kChunk;
      if (chunks_before == 0) {
        eights[0] = load4(state + states.offset, p.has_state ? states.count : 0, p.vector_states);
      } else {
        const size_t slot = first_saved(rows, p) + size_t(chunks_before - 1);
        eights[0] = load4(saved + slot * state_size + states.offset, states.count, p.vector_states);
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
      GHOST_UNROLL
      for (int eight = 1; eight < kChunk / kEight; ++eight) {
        float4 h = eights[eight - 1];
        for (int t = (eight - 1) * kEight; t < eight * kEight; ++t) {
          h = advance(h, steps[t * kChannels + column], tile_B[t * kStateQuads + q], decay_rate);
        }
        eights[eight] = h;
      }

      for (int window = kChunk / kWindow - 1; window >= 0; --window) {
        const int window_row = window * kWindow;
        const bool in_upper = window_row >= kTileRows;
        const RowLoad my_load = in_upper ? loaded[1] : loaded[0];
        const int half_row = in_upper ? kTileRows : 0;  // the first row of this half of the chunk
        if (window_row + kWindow == half_row + kTileRows) {
          float4 g = my_load.dy;
          if (p.has_z) g *= silu4(my_load.gate);
          GHOST_UNROLL
          for (int i = 0; i < 4; ++i) outputs[mine.row * kChannels + mine.column + i] = g[i];
          stage_projection(C, tile_C, block.group, row + half_row, tile - half_row, kTileRows, pass, tid,
                           kThreads, p);
          threadgroup_barrier(mem_flags::mem_threadgroup);
        }
        float4 h[kWindow + 1];
        const int eight = window_row / kEight;
        h[0] = eight == 3 ? eights[3] : eight == 2 ? eights[2] : eight == 1 ? eights[1] : eights[0];
        for (int t = eight * kEight; t < window_row; ++t) {
          h[0] = advance(h[0], steps[t * kChannels + column], tile_B[t * kStateQuads + q], decay_rate);
        }
        GHOST_UNROLL
        for (int i = 0; i < kWindow; ++i) {
          const int t = window_row + i;
          h[i + 1] = advance(h[i], steps[t * kChannels + column], tile_B[t * kStateQuads + q], decay_rate);
        }
        float4 input_sums;
        float4 decay_sums;
        float4 output_sums;
        GHOST_UNROLL
        for (int i = kWindow - 1; i >= 0; --i) {
          const int t = window_row + i;
          const float2 step = steps[t * kChannels + column];
          const float g = outputs[(t - half_row) * kChannels + column];
          const float4 b = tile_B[t * kStateQuads + q];
          const float4 c = tile_C[(t - half_row) * kStateQuads + q];
          adjoint = fma(float4(g), c, adjoint);
          input_sums[i] = dot(adjoint, b);
          output_sums[i] = dot(c, h[i + 1]);
          // Value v of a channel's lane q is state 4q + v of dB, or of dC from 4 on.
          const float share = channel_sums((step.x * step.y) * adjoint, g * h[i + 1], lane);
          const int state = 4 * q + int((lane >> 2) & 3u);
          shares[(i * kSimdgroups + int(simdgroup)) * kShares + int(lane >> 4) * kPassStates + state] = share;
          adjoint *= exp2(step.x * decay_rate);
          const float4 decayed = adjoint * h[i];
          decay_sums[i] = dot(decayed, decay_rate);
          grad_A = fma(float4(step.x), decayed, grad_A);
        }
        const float input_sum = quad_sums(input_sums, lane);
        const float decay_sum = quad_sums(decay_sums, lane);
        const float output_sum = quad_sums(output_sums, lane);
        // The channel's own lanes have read its g.
        simdgroup_barrier(mem_flags::mem_threadgroup);
        sums[q * kChannels + column] = float2(input_sum, decay_sum);
        outputs[(window_row - half_row + q) * kChannels + column] = output_sum;
        threadgroup_barrier(mem_flags::mem_threadgroup);

        // Two SIMD-groups sum up dB and two dC, a pair of rows each,
        const bool of_C = simdgroup >= 2u;
        const int at = int(2u * (simdgroup & 1u) + lane / 16u);
        const int t = window_row + at;
        const int state = int(lane) % kPassStates;
        if (t < tile && pass * kPassStates + state < p.dstate) {
          const threadgroup float* parts =
              shares + at * kSimdgroups * kShares + (of_C ? kPassStates : 0) + state;
          const float total = (parts[0] + parts[kShares]) + (parts[2 * kShares] + parts[3 * kShares]);
          device float* to = of_C ? dC : dB;
          to[size_t(row + t) * projection_pitch +
             size_t(block.group * p.dstate + pass * kPassStates + state)] = total;
        }
        // and the one that loaded these four rows takes their other sums.
        if ((window_row - half_row) / kWindow == int(simdgroup)) {
          RowSums found;
          GHOST_UNROLL
          for (int i = 0; i < 4; ++i) {
            const float2 pair = sums[(mine.row % kWindow) * kChannels + mine.column + i];
            found.input[i] = pair.x;
            found.decay[i] = pair.y;
            found.output[i] = outputs[mine.row * kChannels + mine.column + i];
          }
          // In a single pass the upper half is done before the lower one begins.
          if (kManyPasses && !in_upper) {
            lower.input += found.input;
            lower.decay += found.decay;
            lower.output += found.output;
          } else if (kManyPasses) {
            upper.input += found.input;
            upper.decay += found.decay;
            upper.output += found.output;
          } else {
            upper = found;
          }
        }
        threadgroup_barrier(mem_flags::mem_threadgroup);

        if (window_row == half_row && pass == passes - 1) {
          const int t = mine.row + half_row;
          const int count = t < tile ? mine.count : 0;
          const RowSums found = kManyPasses && !in_upper ? lower : upper;
          float4 size;
          float4 input;
          GHOST_UNROLL
          for (int i = 0; i < 4; ++i) {
            const float2 step = steps[t * kChannels + mine.column + i];
            size[i] = step.x;
            input[i] = step.y;
          }
          float4 g = my_load.dy;
          if (p.has_z) g *= silu4(my_load.gate);
          float4 by_size = fma(found.input, input, found.decay * M_LN2_F);
          if (p.softplus) {
            GHOST_UNROLL
            for (int i = 0; i < 4; ++i) by_size[i] *= softplus_slope(size[i]);
          }
          const size_t at = size_t(row + t) * size_t(p.dim) + size_t(mine.channel);
          store4(du + at, fma(found.input, size, g * skip), count, p.vector_rows);
          store4(ddelta + at, by_size, count, p.vector_rows);
          if (p.has_z) {
            float4 by_gate = my_load.dy * fma(skip, input, found.output);
            GHOST_UNROLL
            for (int i = 0; i < 4; ++i) by_gate[i] *= silu_gradient(my_load.gate[i]);
            store4(dz + at, by_gate, count, p.vector_rows);
          }
          sum_D = fma(g, input, sum_D);
          if (count > 0) sum_bias += by_size;
        }
      }
      if (chunk == 0) {
        if (p.has_state && segment == 0)
          store4(dstate + states.offset, adjoint, states.count, p.vector_states);
        store4(dA + states.offset, grad_A, states.count, p.vector_states);
      } else if (kManyPasses) {
        store4(carried + states.offset, adjoint, states.count, p.vector_states);
        store4(dA + states.offset, grad_A, states.count, p.vector_states);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  // dD and dbias: the rows of a SIMD-group by shuffles, SIMD-groups in order.
  sum_D += simd_shuffle_xor(sum_D, ushort(8));
  sum_D += simd_shuffle_xor(sum_D, ushort(16));
  sum_bias += simd_shuffle_xor(sum_bias, ushort(8));
  sum_bias += simd_shuffle_xor(sum_bias, ushort(16));
  if (lane < 8u) {
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) {
      sums[int(simdgroup) * kChannels + mine.column + i] = float2(sum_D[i], sum_bias[i]);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (tid < kChannels && block.channel + tid < block.end) {
    float2 total = float2(0.0f);
    for (int i = 0; i < kSimdgroups; ++i) total += sums[i * kChannels + tid];
    const size_t at = part * size_t(p.dim) + size_t(block.channel + tid);
    if (p.has_D) dD[at] = total.x;
    if (p.has_bias) dbias[at] = total.y;
  }
}
