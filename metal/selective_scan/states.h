#pragma once

#include "selective_scan/scan.h"

// y and the state after every row, (rows, dim, dstate). A sequence of one row has its last state there, so
// that this is the step of decoding as well: little is read more than once, and nothing is staged.
// Threadgroups (ngroups * ceil(dim / ngroups / 32), max(batch, 1)).
template <typename T>
[[kernel]] void selective_scan_states(
    const device T* u [[buffer(0)]], const device T* delta [[buffer(1)]], const device float* A [[buffer(2)]],
    const device float* B [[buffer(3)]], const device float* C [[buffer(4)]],
    const device float* D [[buffer(5)]], const device T* z [[buffer(6)]],
    const device float* delta_bias [[buffer(7)]], const device float* state [[buffer(8)]],
    const device int* cu_seqlens [[buffer(9)]], device T* y [[buffer(10)]],
    device float* states [[buffer(11)]], constant SelectiveScanParams& p [[buffer(12)]],
    uint3 threadgroup_at [[threadgroup_position_in_grid]], uint thread_at [[thread_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  const int tid = int(thread_at);
  const ScanBlock block = scan_block(int(threadgroup_at.x), p);
  const SequenceRows rows = scan_rows(cu_seqlens, int(threadgroup_at.y), lane, p);
  const size_t state_size = size_t(p.dim) * size_t(p.dstate);
  zero_gaps(y, size_t(p.dim), rows, block.channel, block.end, tid, p);
  zero_gaps(states, state_size, rows, block.channel * p.dstate, block.end * p.dstate, tid, p);

  const int q = tid % 4;
  const int channel = block.channel + tid / 4;
  const bool live = channel < block.end;
  const int passes = num_passes(p);
  const float skip = p.has_D && live ? D[channel] : 0.0f;
  const float bias = p.has_bias && live ? delta_bias[channel] : 0.0f;
  float4 decay_rate = float4(0.0f);  // A log2(e)
  float4 h = float4(0.0f);

  for (int row = rows.begin; row < rows.end; ++row) {
    const size_t at = size_t(row) * size_t(p.dim) + size_t(channel);
    const float input = live ? float(u[at]) : 0.0f;
    const float raw = live ? float(delta[at]) + bias : 0.0f;
    const float gate = p.has_z && live ? float(z[at]) : 0.0f;
    const float size = p.softplus ? softplus(raw) : raw;
    const size_t projection = (size_t(row) * size_t(p.ngroups) + size_t(block.group)) * size_t(p.dstate);
    float sum = 0.0f;
    for (int pass = 0; pass < passes; ++pass) {
      const StateQuad own = state_quad(channel, live, pass, q, p);
      const int first = pass * kPassStates + 4 * q;
      if (row == rows.begin || passes > 1) {
        decay_rate = load4(A + own.offset, own.count, p.vector_states) * M_LOG2E_F;
      }
      if (row == rows.begin) {
        const device float* from = state + size_t(rows.sequence) * state_size;
        h = load4(from + own.offset, p.has_state ? own.count : 0, p.vector_states);
      } else if (passes > 1) {
        h = load4(states + size_t(row - 1) * state_size + own.offset, own.count, p.vector_states);
      }
      const float4 b = load4(B + projection + first, p.dstate - first, p.vector_states);
      const float4 c = load4(C + projection + first, p.dstate - first, p.vector_states);
      h = fma(exp2(size * decay_rate), h, (size * input) * b);
      store4(states + size_t(row) * state_size + own.offset, h, own.count, p.vector_states);
      sum += dot(c, h);
    }
    sum += simd_shuffle_xor(sum, ushort(1));
    sum += simd_shuffle_xor(sum, ushort(2));
    sum = fma(skip, input, sum);
    if (p.has_z) sum *= silu(gate);
    if (live && q == 0) y[at] = T(sum);
  }
}
