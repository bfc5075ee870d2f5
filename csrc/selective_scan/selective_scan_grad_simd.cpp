#include "selective_scan/selective_scan_simd.h"

namespace ghost::GHOST_ISA {
namespace {

// States of a block: q and the gradient of A for each stay in registers, and the chunk's decays and states
// of one block (32 steps) in L1.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kStates = 8;
#else
constexpr int kStates = 4;
#endif

constexpr int64_t kRow = kWidth;
constexpr int64_t kBuffer = kScanChunk * kRow;

// A chunk of one block. The backward runs over all blocks for one block of states before the next, so that
// the per-lane sums of dB and dC stay in cache.
struct Chunk {
  float delta[kBuffer];
  float delta_u[kBuffer];
  float g[kBuffer];          // cotangent of y before the gate
  float y[kBuffer];          // y before the gate, for dz
  float dB_sum[kBuffer];     // sum over states of q B
  float decay_sum[kBuffer];  // sum over states of q a h A log2(e)
};

struct Carry {
  float decay[kScanChunk * kStates * kWidth];    // a
  float decayed[kScanChunk * kStates * kWidth];  // a h[t - 1]
  float dB[kScanChunk * kStates * kWidth];
  float dC[kScanChunk * kStates * kWidth];
};

// softplus and its derivative share the exponential.
GHOST_INLINE F32 softplus_gradient(F32 x) { return sigmoid(x); }

template <class T>
GHOST_INLINE void prepare(const ScanSequence<T>& in, Block block, const T* dy, int64_t t0, int64_t rows,
                          Chunk& chunk) {
  const F32 D = load_optional(in.D ? in.D + block.channel : nullptr, block.lanes);
  const F32 bias = load_optional(in.delta_bias ? in.delta_bias + block.channel : nullptr, block.lanes);
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t at = (t0 + t) * in.dim + block.channel;
    const F32 u = load_lanes(in.u + at, block.lanes);
    F32 delta = load_lanes(in.delta + at, block.lanes) + bias;
    if (in.softplus) delta = softplus(delta);
    F32 g = load_lanes(dy + at, block.lanes);
    if (in.z) g = g * silu(load_lanes(in.z + at, block.lanes));
    store(chunk.delta + t * kRow, delta);
    store(chunk.delta_u + t * kRow, delta * u);
    store(chunk.g + t * kRow, g);
    store(chunk.y + t * kRow, D * u);
    store(chunk.dB_sum + t * kRow, splat(0.0f));
    store(chunk.decay_sum + t * kRow, splat(0.0f));
  }
}

// The forward of N states again, keeping decays and decayed states.
template <int N, bool Gated>
GHOST_INLINE void recompute(const float* A, const float* state, int64_t state_stride, int lanes,
                            const float* B, const float* C, int64_t bc_stride, int64_t rows, Chunk& chunk,
                            Carry& carry) {
  F32 h[N];
  for (int n = 0; n < N; ++n) h[n] = load_lanes(state + n * state_stride, lanes);
  for (int64_t t = 0; t < rows; ++t) {
    const F32 delta = load(chunk.delta + t * kRow);
    const F32 delta_u = load(chunk.delta_u + t * kRow);
    float* decay = carry.decay + t * N * kWidth;
    float* decayed = carry.decayed + t * N * kWidth;
    F32 y = Gated ? load(chunk.y + t * kRow) : splat(0.0f);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const F32 a = exp2(delta * load(A + n * kWidth));
      const F32 ah = a * h[n];
      store(decay + n * kWidth, a);
      store(decayed + n * kWidth, ah);
      h[n] = fma(delta_u, splat(B[n]), ah);
      if constexpr (Gated) y = fma(h[n], splat(C[n]), y);
    }
    if constexpr (Gated) store(chunk.y + t * kRow, y);
    B += bc_stride;
    C += bc_stride;
  }
}

// The adjoint recurrence, last row first: q[t] = g C + a[t + 1] q[t + 1].
template <int N>
GHOST_INLINE void adjoint(const float* A, float* q_carry, float* dA, const float* B, const float* C,
                          int64_t bc_stride, int64_t rows, Chunk& chunk, Carry& carry) {
  F32 q[N], grad_A[N];
  for (int n = 0; n < N; ++n) {
    q[n] = load(q_carry + n * kWidth);
    grad_A[n] = load(dA + n * kWidth);
  }
  for (int64_t t = rows - 1; t >= 0; --t) {
    const F32 delta = load(chunk.delta + t * kRow);
    const F32 delta_u = load(chunk.delta_u + t * kRow);
    const F32 g = load(chunk.g + t * kRow);
    F32 dB_sum = load(chunk.dB_sum + t * kRow);
    F32 decay_sum = load(chunk.decay_sum + t * kRow);
    const int64_t at = t * N * kWidth;
    const float* b = B + t * bc_stride;
    const float* c = C + t * bc_stride;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const int64_t i = at + n * kWidth;
      const F32 ah = load(carry.decayed + i);
      const F32 h = fma(delta_u, splat(b[n]), ah);
      const F32 p = fma(g, splat(c[n]), q[n]);
      store(carry.dC + i, fma(g, h, load(carry.dC + i)));
      store(carry.dB + i, fma(p, delta_u, load(carry.dB + i)));
      dB_sum = fma(p, splat(b[n]), dB_sum);
      const F32 pah = p * ah;
      decay_sum = fma(pah, load(A + n * kWidth), decay_sum);
      grad_A[n] = fma(pah, delta, grad_A[n]);
      q[n] = p * load(carry.decay + i);
    }
    store(chunk.dB_sum + t * kRow, dB_sum);
    store(chunk.decay_sum + t * kRow, decay_sum);
  }
  for (int n = 0; n < N; ++n) {
    store(q_carry + n * kWidth, q[n]);
    store(dA + n * kWidth, grad_A[n]);
  }
}

template <class T>
GHOST_INLINE void finish(const ScanSequence<T>& in, Block block, const T* dy, int64_t t0, int64_t rows,
                         const Chunk& chunk, const ScanGradients<T>& out, float* dD, float* ddelta_bias) {
  const F32 D = load_optional(in.D ? in.D + block.channel : nullptr, block.lanes);
  const F32 bias = load_optional(in.delta_bias ? in.delta_bias + block.channel : nullptr, block.lanes);
  F32 D_sum = load(dD), bias_sum = load(ddelta_bias);
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t at = (t0 + t) * in.dim + block.channel;
    const F32 u = load_lanes(in.u + at, block.lanes);
    const F32 g = load(chunk.g + t * kRow);
    const F32 dB_sum = load(chunk.dB_sum + t * kRow);
    F32 ddelta = fma(dB_sum, u, load(chunk.decay_sum + t * kRow) * splat(kLn2));
    if (in.softplus) {
      ddelta = ddelta * softplus_gradient(load_lanes(in.delta + at, block.lanes) + bias);
    }
    store_lanes(out.du + at, fma(dB_sum, load(chunk.delta + t * kRow), g * D), block.lanes);
    store_lanes(out.ddelta + at, ddelta, block.lanes);
    D_sum = fma(g, u, D_sum);
    bias_sum = bias_sum + ddelta;
    if (in.z) {
      const F32 dy_y = load_lanes(dy + at, block.lanes) * load(chunk.y + t * kRow);
      store_lanes(out.dz + at, dy_y * silu_gradient(load_lanes(in.z + at, block.lanes)), block.lanes);
    }
  }
  store(dD, D_sum);
  store(ddelta_bias, bias_sum);
}

// (rows, N) sums over lanes into the slice's dB or dC.
template <int N>
GHOST_INLINE void sum_lanes(const float* lanes, int64_t rows, float* out, int64_t stride) {
  for (int64_t t = 0; t < rows; ++t) {
    for (int n = 0; n < N; ++n) out[t * stride + n] = sum(load(lanes + (t * N + n) * kWidth));
  }
}

constexpr int64_t kCarryFloats = sizeof(Carry) / sizeof(float);
constexpr int64_t kChunkFloats = sizeof(Chunk) / sizeof(float);

}  // namespace

// Scratch: the per-lane buffers, one chunk per block, then per block q and the first state.
template <class T>
int64_t ScanBackward<T>::scratch(const ScanSlice& slice, int dstate) {
  return kCarryFloats + num_blocks(slice) * (kChunkFloats + 2 * static_cast<int64_t>(dstate) * kWidth);
}

template <class T>
void ScanBackward<T>::run(const ScanSequence<T>& in, const ScanSlice& slice, const T* dy,
                          const float* dlast_state, const float* saved, const ScanGradients<T>& out,
                          float* scratch) {
  const int64_t blocks = num_blocks(slice);
  const int64_t block_size = static_cast<int64_t>(in.dstate) * kWidth;
  Carry& carry = *reinterpret_cast<Carry*>(scratch);
  Chunk* chunks = reinterpret_cast<Chunk*>(scratch + kCarryFloats);
  float* q = scratch + kCarryFloats + blocks * kChunkFloats;
  float* first_state = q + blocks * block_size;
  pack_state(in, slice, dlast_state, q);
  pack_state(in, slice, in.state, first_state);
  for (int64_t t0 = (in.seqlen - 1) / kScanChunk * kScanChunk; t0 >= 0 && in.seqlen > 0; t0 -= kScanChunk) {
    const int64_t rows = min_of(kScanChunk, in.seqlen - t0);
    for (int64_t k = 0; k < blocks; ++k) prepare(in, block_of(slice, k), dy, t0, rows, chunks[k]);
    const float* B = in.B + t0 * in.bc_stride;
    const float* C = in.C + t0 * in.bc_stride;
    for_state_blocks<kStates>(in.dstate, [&]<int N>(int n) {
      for (int64_t i = 0; i < rows * N * kWidth; i += kWidth) {
        store(carry.dB + i, splat(0.0f));
        store(carry.dC + i, splat(0.0f));
      }
      for (int64_t k = 0; k < blocks; ++k) {
        const Block block = block_of(slice, k);
        const float* state = first_state + k * block_size + n * kWidth;
        int64_t stride = kWidth;
        int lanes = kWidth;
        if (t0 > 0) {
          state = saved + ((t0 / kScanChunk - 1) * in.dstate + n) * in.dim + block.channel;
          stride = in.dim;
          lanes = block.lanes;
        }
        const float* A = in.A + (slice.block0 + k) * block_size + n * kWidth;
        if (in.z) {
          recompute<N, true>(A, state, stride, lanes, B + n, C + n, in.bc_stride, rows, chunks[k], carry);
        } else {
          recompute<N, false>(A, state, stride, lanes, B + n, C + n, in.bc_stride, rows, chunks[k], carry);
        }
        adjoint<N>(A, q + k * block_size + n * kWidth, out.dA + k * block_size + n * kWidth, B + n, C + n,
                   in.bc_stride, rows, chunks[k], carry);
      }
      sum_lanes<N>(carry.dB, rows, out.dB + t0 * in.bc_stride + n, in.bc_stride);
      sum_lanes<N>(carry.dC, rows, out.dC + t0 * in.bc_stride + n, in.bc_stride);
    });
    for (int64_t k = 0; k < blocks; ++k) {
      finish(in, block_of(slice, k), dy, t0, rows, chunks[k], out, out.dD + k * kWidth,
             out.ddelta_bias + k * kWidth);
    }
  }
  if (out.dstate) {
    for (int64_t k = 0; k < blocks; ++k) {
      unpack_block(q + k * block_size, block_of(slice, k), in.dstate, out.dstate);
    }
  }
}

template struct ScanBackward<float>;
template struct ScanBackward<float16>;
template struct ScanBackward<bfloat16>;

}  // namespace ghost::GHOST_ISA
