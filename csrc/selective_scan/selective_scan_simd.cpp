#include "selective_scan/selective_scan_simd.h"

namespace ghost::GHOST_ISA {
namespace {

// States a block keeps in registers: as many as leave room for the exponential's temporaries.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kStates = 16;
#else
constexpr int kStates = 8;
#endif

void pack(const float* A, const ScanSlice& slice, int dstate, float* packed) {
  for (int64_t k = 0; k < num_blocks(slice); ++k) {
    pack_block(A, block_of(slice, k), dstate, packed + k * dstate * kWidth, kLog2e);
  }
}

void unpack(const float* packed, const ScanSlice& slice, int dstate, float* dA) {
  for (int64_t k = 0; k < num_blocks(slice); ++k) {
    unpack_block(packed + k * dstate * kWidth, block_of(slice, k), dstate, dA);
  }
}

// A row of one block: what the recurrence needs of it, and the sum over states so far. Interleaved, so that
// no two buffers are a multiple of 4 KiB apart.
struct alignas(64) Row {
  float delta[kWidth];
  float delta_u[kWidth];
  float y[kWidth];
};

// What `prepare` will read next. Rows are far apart, out of reach of hardware prefetchers, and asked for a
// few at a time, for caches take only so many requests at once.
template <class T>
struct Ahead {
  const T* u;
  const T* delta;
  const T* z;  // or u
  int64_t stride;
  int64_t rows;

  void prefetch(int64_t t) const {
    if (t >= rows) return;
    for (const T* p : {u, delta, z}) __builtin_prefetch(p + t * stride);
  }
};

template <class T>
GHOST_INLINE void prepare(const ScanSequence<T>& in, Block block, int64_t t0, int64_t rows, Row* chunk) {
  const F32 D = load_optional(in.D ? in.D + block.channel : nullptr, block.lanes);
  const F32 bias = load_optional(in.delta_bias ? in.delta_bias + block.channel : nullptr, block.lanes);
  for (int64_t t = 0; t < rows; ++t) {
    const int64_t at = (t0 + t) * in.dim + block.channel;
    const F32 u = load_lanes(in.u + at, block.lanes);
    F32 delta = load_lanes(in.delta + at, block.lanes) + bias;
    if (in.softplus) delta = softplus(delta);
    store(chunk[t].delta, delta);
    store(chunk[t].delta_u, delta * u);
    store(chunk[t].y, D * u);
  }
}

// N states of one block over `rows` rows: h = a h + delta u B, y += C h. Meanwhile asks for what is ahead.
template <int N, class T>
GHOST_INLINE void recur(const float* A, float* state, const float* B, const float* C, int64_t bc_stride,
                        int64_t rows, const Ahead<T>& ahead, Row* chunk) {
  F32 h[N];
  for (int n = 0; n < N; ++n) h[n] = load(state + n * kWidth);
  for (int64_t t = 0; t < rows; ++t) {
    const F32 delta = load(chunk[t].delta);
    const F32 delta_u = load(chunk[t].delta_u);
    F32 y[2] = {load(chunk[t].y), splat(0.0f)};
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      h[n] = fma(exp2(delta * load(A + n * kWidth)), h[n], delta_u * splat(B[n]));
      y[n % 2] = fma(h[n], splat(C[n]), y[n % 2]);
    }
    store(chunk[t].y, y[0] + y[1]);
    ahead.prefetch(t);
    B += bc_stride;
    C += bc_stride;
  }
  for (int n = 0; n < N; ++n) store(state + n * kWidth, h[n]);
}

int64_t forward_scratch(const ScanSlice& slice, int dstate) { return num_blocks(slice) * kWidth * dstate; }

template <class T>
void forward(const ScanSequence<T>& in, const ScanSlice& slice, T* y, float* last_state, float* saved,
             float* scratch) {
  const int64_t block_size = static_cast<int64_t>(in.dstate) * kWidth;
  pack_state(in, slice, in.state, scratch);
  Row chunk[kScanChunk];
  for (int64_t t0 = 0; t0 < in.seqlen; t0 += kScanChunk) {
    const int64_t rows = min_of(kScanChunk, in.seqlen - t0);
    for (int64_t k = 0; k < num_blocks(slice); ++k) {
      const Block block = block_of(slice, k);
      float* state = scratch + k * block_size;
      if (saved && t0 > 0) {
        float* out = saved + (t0 / kScanChunk - 1) * in.dstate * in.dim + block.channel;
        for (int n = 0; n < in.dstate; ++n) {
          store_lanes(out + n * in.dim, load(state + n * kWidth), block.lanes);
        }
      }
      prepare(in, block, t0, rows, chunk);
      const bool same_rows = k + 1 < num_blocks(slice);
      const int64_t next_t0 = same_rows ? t0 : t0 + kScanChunk;
      const int64_t next = next_t0 * in.dim + (same_rows ? block.channel + kWidth : slice.channel0);
      const Ahead<T> ahead{in.u + next, in.delta + next, (in.z ? in.z : in.u) + next, in.dim,
                           min_of(kScanChunk, in.seqlen - next_t0)};
      const float* A = in.A + (slice.block0 + k) * block_size;
      const float* B = in.B + t0 * in.bc_stride;
      const float* C = in.C + t0 * in.bc_stride;
      for_state_blocks<kStates>(in.dstate, [&]<int N>(int n) {
        recur<N>(A + n * kWidth, state + n * kWidth, B + n, C + n, in.bc_stride, rows, ahead, chunk);
      });
      for (int64_t t = 0; t < rows; ++t) {
        const int64_t at = (t0 + t) * in.dim + block.channel;
        F32 v = load(chunk[t].y);
        if (in.z) v = v * silu(load_lanes(in.z + at, block.lanes));
        store_lanes(y + at, v, block.lanes);
      }
    }
  }
  for (int64_t k = 0; k < num_blocks(slice); ++k) {
    unpack_block(scratch + k * block_size, block_of(slice, k), in.dstate, last_state);
  }
}

template <class T>
void step(const ScanSequence<T>& in, const ScanSlice& slice, T* y, float* last_state) {
  for (int64_t k = 0; k < num_blocks(slice); ++k) {
    const Block block = block_of(slice, k);
    const int64_t c0 = block.channel;
    const F32 u = load_lanes(in.u + c0, block.lanes);
    F32 delta = load_lanes(in.delta + c0, block.lanes) +
                load_optional(in.delta_bias ? in.delta_bias + c0 : nullptr, block.lanes);
    if (in.softplus) delta = softplus(delta);
    float rate[kWidth], delta_u[kWidth];
    store(rate, delta * splat(kLog2e));
    store(delta_u, delta * u);
    F32 totals[kWidth];
    for (int c = 0; c < kWidth; ++c) totals[c] = splat(0.0f);
    for (int c = 0; c < block.lanes; ++c) {
      const int64_t row = (c0 + c) * in.dstate;
      for (int n = 0; n < in.dstate; n += kWidth) {
        const int count = min_of(kWidth, in.dstate - n);
        const F32 decay = exp2(splat(rate[c]) * load_lanes(in.A + row + n, count));
        const F32 before = load_optional(in.state ? in.state + row + n : nullptr, count);
        const F32 h = fma(decay, before, splat(delta_u[c]) * load_lanes(in.B + n, count));
        store_lanes(last_state + row + n, h, count);
        totals[c] = fma(h, load_lanes(in.C + n, count), totals[c]);
      }
    }
    F32 v = fma(load_optional(in.D ? in.D + c0 : nullptr, block.lanes), u, sum_each(totals));
    if (in.z) v = v * silu(load_lanes(in.z + c0, block.lanes));
    store_lanes(y + c0, v, block.lanes);
  }
}

template <class T>
constexpr SelectiveScanKernels<T> kernels{
    kWidth, pack, unpack, forward_scratch, ScanBackward<T>::scratch, forward<T>, ScanBackward<T>::run,
    step<T>};

}  // namespace

extern const SelectiveScanTable selective_scan_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
