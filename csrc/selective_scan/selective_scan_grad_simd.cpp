#include "selective_scan/selective_scan_simd.h"

namespace ghost::GHOST_ISA {
namespace {

// States of a block: with four, decays and states of a chunk (32 rows) and the sums of dB and dC stay in the
// first-level cache.
constexpr int kStates = 4;

// A row of one block. The backward runs over all blocks for one block of states before the next, so that the
// per-lane sums of dB and dC stay in cache. Rows are interleaved, so that no two buffers are a multiple of
// 4 KiB apart.
struct alignas(64) Row {
  float delta[kWidth];
  float delta_u[kWidth];
  float g[kWidth];          // cotangent of y before the gate
  float y[kWidth];          // sum over states of C h, for dz
  float dB_sum[kWidth];     // sum over states of q B
  float decay_sum[kWidth];  // sum over states of q a h A log2(e)
};

// What prepare finds out for finish. Apart from the rows, which the recurrences go through again and again.
struct alignas(64) Slopes {
  float delta[kWidth];  // of softplus
  float gate[kWidth];   // of silu at z
};

// One row and state of one block.
struct alignas(64) Entry {
  float decay[kWidth];    // a
  float decayed[kWidth];  // a h[t - 1]
  float dB[kWidth];       // of this lane, summed over blocks
  float dC[kWidth];
};

// Softplus, and in `slope` its derivative, the sigmoid: both follow from one exponential.
GHOST_INLINE F32 softplus_and_slope(F32 x, float* slope) {
  const F32 e = exp(-abs(x));
  const F32 part = splat(1.0f) / (splat(1.0f) + e);
  store(slope, select_gt(x, splat(0.0f), part, e * part));
  return softplus(x, e);
}

// SiLU, and in `slope` its derivative.
GHOST_INLINE F32 silu_and_slope(F32 x, float* slope) {
  x = max(splat(-88.0f), x);
  const F32 s = sigmoid(x);
  store(slope, silu_gradient(x, s));
  return x * s;
}

// Of all blocks, a row at a time: memory is read in its order.
template <class T>
GHOST_INLINE void prepare(const ScanSequence<T>& in, const ScanSlice& slice, const T* dy, int64_t t0,
                          int64_t rows, Row* chunks, Slopes* slopes) {
  const int64_t blocks = num_blocks(slice);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t k = 0; k < blocks; ++k) {
      const Block block = block_of(slice, k);
      const int64_t at = (t0 + t) * in.dim + block.channel;
      Row& row = chunks[k * kScanChunk + t];
      Slopes& slope = slopes[k * kScanChunk + t];
      const F32 u = load_lanes(in.u + at, block.lanes);
      F32 delta = load_lanes(in.delta + at, block.lanes) +
                  load_optional(in.delta_bias ? in.delta_bias + block.channel : nullptr, block.lanes);
      if (in.softplus) delta = softplus_and_slope(delta, slope.delta);
      F32 g = load_lanes(dy + at, block.lanes);
      if (in.z) g = g * silu_and_slope(load_lanes(in.z + at, block.lanes), slope.gate);
      store(row.delta, delta);
      store(row.delta_u, delta * u);
      store(row.g, g);
    }
  }
}

// Asks for what `prepare` and `recompute` will read of the chunk before: states are far apart, out of reach
// of hardware prefetchers, and rows of a whole chunk are in time for the second level.
template <class T>
GHOST_INLINE void prefetch(const ScanSequence<T>& in, Block block, const T* dy, const float* saved,
                           int64_t t0) {
  const int64_t at = t0 * in.dim + block.channel;
  for (const T* p : {in.u, in.delta, dy, in.z ? in.z : dy}) {
    for (int64_t t = 0; t < kScanChunk; ++t) __builtin_prefetch(p + at + t * in.dim, 0, 2);
  }
  if (t0 == 0) return;
  const float* state = saved + (t0 / kScanChunk - 1) * in.dstate * in.dim + block.channel;
  for (int n = 0; n < in.dstate; ++n) __builtin_prefetch(state + n * in.dim, 0, 2);
}

// The forward of N states again, keeping decays and decayed states. With `first`, the sums of rows begin
// here.
template <int N, bool Gated>
GHOST_INLINE void recompute(const float* A, const float* state, int64_t state_stride, int lanes,
                            const float* B, const float* C, int64_t bc_stride, int64_t rows, bool first,
                            Row* chunk, Entry* entries) {
  F32 h[N];
  for (int n = 0; n < N; ++n) h[n] = load_lanes(state + n * state_stride, lanes);
  for (int64_t t = 0; t < rows; ++t) {
    const F32 delta = load(chunk[t].delta);
    const F32 delta_u = load(chunk[t].delta_u);
    Entry* entry = entries + t * N;
    F32 y = Gated && !first ? load(chunk[t].y) : splat(0.0f);
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const F32 a = exp2(delta * load(A + n * kWidth));
      const F32 ah = a * h[n];
      store(entry[n].decay, a);
      store(entry[n].decayed, ah);
      h[n] = fma(delta_u, splat(B[n]), ah);
      if constexpr (Gated) y = fma(h[n], splat(C[n]), y);
    }
    if constexpr (Gated) store(chunk[t].y, y);
    B += bc_stride;
    C += bc_stride;
  }
}

// The adjoint recurrence, last row first: q[t] = g C + a[t + 1] q[t + 1].
template <int N>
GHOST_INLINE void adjoint(const float* A, float* q_carry, float* dA, const float* B, const float* C,
                          int64_t bc_stride, int64_t rows, bool first, Row* chunk, Entry* entries) {
  F32 q[N], grad_A[N];
  for (int n = 0; n < N; ++n) {
    q[n] = load(q_carry + n * kWidth);
    grad_A[n] = load(dA + n * kWidth);
  }
  for (int64_t t = rows - 1; t >= 0; --t) {
    const F32 delta = load(chunk[t].delta);
    const F32 delta_u = load(chunk[t].delta_u);
    const F32 g = load(chunk[t].g);
    F32 dB_sum = first ? splat(0.0f) : load(chunk[t].dB_sum);
    F32 decay_sum = first ? splat(0.0f) : load(chunk[t].decay_sum);
    Entry* entry = entries + t * N;
    const float* b = B + t * bc_stride;
    const float* c = C + t * bc_stride;
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      const F32 ah = load(entry[n].decayed);
      const F32 h = fma(delta_u, splat(b[n]), ah);
      const F32 p = fma(g, splat(c[n]), q[n]);
      store(entry[n].dC, fma(g, h, load(entry[n].dC)));
      store(entry[n].dB, fma(p, delta_u, load(entry[n].dB)));
      dB_sum = fma(p, splat(b[n]), dB_sum);
      const F32 pah = p * ah;
      decay_sum = fma(pah, load(A + n * kWidth), decay_sum);
      grad_A[n] = fma(pah, delta, grad_A[n]);
      q[n] = p * load(entry[n].decay);
    }
    store(chunk[t].dB_sum, dB_sum);
    store(chunk[t].decay_sum, decay_sum);
  }
  for (int n = 0; n < N; ++n) {
    store(q_carry + n * kWidth, q[n]);
    store(dA + n * kWidth, grad_A[n]);
  }
}

template <class T>
GHOST_INLINE void finish(const ScanSequence<T>& in, const ScanSlice& slice, const T* dy, int64_t t0,
                         int64_t rows, const Row* chunks, const Slopes* slopes, const ScanGradients<T>& out) {
  const int64_t blocks = num_blocks(slice);
  for (int64_t t = 0; t < rows; ++t) {
    for (int64_t k = 0; k < blocks; ++k) {
      const Block block = block_of(slice, k);
      const Row& row = chunks[k * kScanChunk + t];
      const Slopes& slope = slopes[k * kScanChunk + t];
      const F32 D = load_optional(in.D ? in.D + block.channel : nullptr, block.lanes);
      const int64_t at = (t0 + t) * in.dim + block.channel;
      const F32 u = load_lanes(in.u + at, block.lanes);
      const F32 g = load(row.g);
      const F32 dB_sum = load(row.dB_sum);
      F32 ddelta = fma(dB_sum, u, load(row.decay_sum) * splat(kLn2));
      if (in.softplus) ddelta = ddelta * load(slope.delta);
      store_lanes(out.du + at, fma(dB_sum, load(row.delta), g * D), block.lanes);
      store_lanes(out.ddelta + at, ddelta, block.lanes);
      float* dD = out.dD + k * kWidth;
      float* dbias = out.ddelta_bias + k * kWidth;
      store(dD, fma(g, u, load(dD)));
      store(dbias, load(dbias) + ddelta);
      if (in.z) {
        const F32 dy_y = load_lanes(dy + at, block.lanes) * fma(D, u, load(row.y));
        store_lanes(out.dz + at, dy_y * load(slope.gate), block.lanes);
      }
    }
  }
}

// The sums over lanes of dB and dC, (rows, N), into the slice's share.
template <int N>
GHOST_INLINE void sum_lanes(const Entry* entries, int64_t rows, float* dB, float* dC, int64_t stride) {
  const int64_t count = rows * N;
  float sums[2][kScanChunk * kStates];
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    F32 b[kWidth], c[kWidth];
    for (int j = 0; j < kWidth; ++j) {
      b[j] = load(entries[i + j].dB);
      c[j] = load(entries[i + j].dC);
    }
    store(sums[0] + i, sum_each(b));
    store(sums[1] + i, sum_each(c));
  }
  for (; i < count; ++i) {
    sums[0][i] = sum(load(entries[i].dB));
    sums[1][i] = sum(load(entries[i].dC));
  }
  for (int64_t t = 0; t < rows; ++t) {
    std::memcpy(dB + t * stride, sums[0] + t * N, N * sizeof(float));
    std::memcpy(dC + t * stride, sums[1] + t * N, N * sizeof(float));
  }
}

constexpr int64_t kEntriesFloats = kScanChunk * kStates * sizeof(Entry) / sizeof(float);
constexpr int64_t kChunkFloats = kScanChunk * sizeof(Row) / sizeof(float);
constexpr int64_t kSlopesFloats = kScanChunk * sizeof(Slopes) / sizeof(float);

}  // namespace

// Scratch: the per-lane buffers, one chunk and its slopes per block, then per block q and the first state.
template <class T>
int64_t ScanBackward<T>::scratch(const ScanSlice& slice, int dstate) {
  return kEntriesFloats +
         num_blocks(slice) * (kChunkFloats + kSlopesFloats + 2 * static_cast<int64_t>(dstate) * kWidth);
}

template <class T>
void ScanBackward<T>::run(const ScanSequence<T>& in, const ScanSlice& slice, const T* dy,
                          const float* dlast_state, const float* saved, const ScanGradients<T>& out,
                          float* scratch) {
  const int64_t blocks = num_blocks(slice);
  const int64_t block_size = static_cast<int64_t>(in.dstate) * kWidth;
  Entry* entries = reinterpret_cast<Entry*>(scratch);
  Row* chunks = reinterpret_cast<Row*>(scratch + kEntriesFloats);
  Slopes* slopes = reinterpret_cast<Slopes*>(scratch + kEntriesFloats + blocks * kChunkFloats);
  float* q = scratch + kEntriesFloats + blocks * (kChunkFloats + kSlopesFloats);
  float* first_state = q + blocks * block_size;
  pack_state(in, slice, dlast_state, q);
  pack_state(in, slice, in.state, first_state);
  for (int64_t t0 = (in.seqlen - 1) / kScanChunk * kScanChunk; t0 >= 0 && in.seqlen > 0; t0 -= kScanChunk) {
    const int64_t rows = min_of(kScanChunk, in.seqlen - t0);
    prepare(in, slice, dy, t0, rows, chunks, slopes);
    const float* B = in.B + t0 * in.bc_stride;
    const float* C = in.C + t0 * in.bc_stride;
    for_state_blocks<kStates>(in.dstate, [&]<int N>(int n) {
      for (int64_t i = 0; i < rows * N; ++i) {
        store(entries[i].dB, splat(0.0f));
        store(entries[i].dC, splat(0.0f));
      }
      for (int64_t k = 0; k < blocks; ++k) {
        const Block block = block_of(slice, k);
        Row* chunk = chunks + k * kScanChunk;
        const bool first = n == 0;
        if (first && t0 > 0) prefetch(in, block, dy, saved, t0 - kScanChunk);
        const float* state = first_state + k * block_size + n * kWidth;
        int64_t stride = kWidth;
        int lanes = kWidth;
        if (t0 > 0) {
          state = saved + ((t0 / kScanChunk - 1) * in.dstate + n) * in.dim + block.channel;
          stride = in.dim;
          lanes = block.lanes;
        }
        const float* A = in.A + (slice.block0 + k) * block_size + n * kWidth;
        const auto recomputed = in.z ? recompute<N, true> : recompute<N, false>;
        recomputed(A, state, stride, lanes, B + n, C + n, in.bc_stride, rows, first, chunk, entries);
        adjoint<N>(A, q + k * block_size + n * kWidth, out.dA + k * block_size + n * kWidth, B + n, C + n,
                   in.bc_stride, rows, first, chunk, entries);
      }
      sum_lanes<N>(entries, rows, out.dB + t0 * in.bc_stride + n, out.dC + t0 * in.bc_stride + n,
                   in.bc_stride);
    });
    finish(in, slice, dy, t0, rows, chunks, slopes, out);
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
