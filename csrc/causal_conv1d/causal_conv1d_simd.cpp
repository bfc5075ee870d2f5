#include "causal_conv1d/causal_conv1d_kernels.h"
#include "common/simd_loop.h"

namespace ghost::GHOST_ISA {
namespace {

constexpr int kMaxWidth = 4;

template <class T>
inline const T* extended_row(const CausalConv1dRows<T>& in, int64_t j) {
  return j < in.width - 1 ? in.state + j * in.dim : in.x + (j - (in.width - 1)) * in.dim;
}

// The sliding window of one block of channels: `window[k]` is extended row t + k.
template <int W, class T, class IO>
struct Window {
  F32 rows[W];
  Window(const CausalConv1dRows<T>& in, int64_t t, int64_t d, IO io) {
    for (int k = 0; k + 1 < W; ++k) rows[k + 1] = io.get(extended_row(in, t + k) + d);
  }
  void advance(const CausalConv1dRows<T>& in, int64_t t, int64_t d, IO io) {
    for (int k = 0; k + 1 < W; ++k) rows[k] = rows[k + 1];
    rows[W - 1] = io.get(in.x + t * in.dim + d);
  }
  F32 apply(const F32* weight, F32 bias) const {
    F32 sum = bias;
    for (int k = 0; k < W; ++k) sum = fma(rows[k], weight[k], sum);
    return sum;
  }
};

template <int W, class IO>
inline F32 load_weight(const float* weight, const float* bias, int64_t dim, int64_t d, IO io, F32* out) {
  for (int k = 0; k < W; ++k) out[k] = io.get(weight + k * dim + d);
  return io.get(bias + d);
}

template <int W, class T>
void forward_w(const CausalConv1dRows<T>& in, T* y, int64_t t0, int64_t t1) {
  for_vectors(in.dim, [&](int64_t d, auto io) {
    F32 weight[W];
    const F32 bias = load_weight<W>(in.weight, in.bias, in.dim, d, io, weight);
    Window<W, T, decltype(io)> window(in, t0, d, io);
    for (int64_t t = t0; t < t1; ++t) {
      window.advance(in, t, d, io);
      const F32 v = window.apply(weight, bias);
      io.put(y + t * in.dim + d, in.silu ? silu(v) : v);
    }
  });
}

// q[t], the cotangent before the activation, for one block of channels; `window` stands at t.
template <int W, class T, class IO>
inline F32 pre_activation_grad(const CausalConv1dRows<T>& in, const Window<W, T, IO>& window,
                               const F32* weight, F32 bias, F32 dy) {
  return in.silu ? dy * silu_gradient(window.apply(weight, bias)) : dy;
}

// Gradients of extended rows [j0, j1), written with put(j, d, io, value):
//   dxe[j] = sum_k weight[k] q[j - k], plus dlast[j - seqlen] for the rows that make up last_state.
template <int W, class T, class Put>
inline void extended_grad(const CausalConv1dRows<T>& in, const T* dy, const T* dlast, int64_t j0, int64_t j1,
                          Put put) {
  for_vectors(in.dim, [&](int64_t d, auto io) {
    F32 weight[W];
    const F32 bias = load_weight<W>(in.weight, in.bias, in.dim, d, io, weight);
    int64_t t = max_of<int64_t>(0, j0 - (W - 1));
    Window<W, T, decltype(io)> window(in, t, d, io);
    F32 q[W];  // q[k] belongs to output row j - k
    for (int k = 0; k < W; ++k) q[k] = splat(0.0f);
    for (int64_t j = t; j < j1; ++j) {
      for (int k = W - 1; k > 0; --k) q[k] = q[k - 1];
      if (j < in.seqlen) {
        window.advance(in, j, d, io);
        q[0] = pre_activation_grad(in, window, weight, bias, io.get(dy + j * in.dim + d));
      } else {
        q[0] = splat(0.0f);
      }
      if (j < j0) continue;
      F32 sum = j >= in.seqlen ? io.get(dlast + (j - in.seqlen) * in.dim + d) : splat(0.0f);
      for (int k = 0; k < W; ++k) sum = fma(weight[k], q[k], sum);
      put(j, d, io, sum);
    }
  });
}

template <int W, class T>
void input_grad_w(const CausalConv1dRows<T>& in, const T* dy, const T* dlast, T* dx, int64_t t0, int64_t t1) {
  extended_grad<W>(in, dy, dlast, t0 + W - 1, t1 + W - 1,
                   [&](int64_t j, int64_t d, auto io, F32 v) { io.put(dx + (j - (W - 1)) * in.dim + d, v); });
}

template <int W, class T>
void state_grad_w(const CausalConv1dRows<T>& in, const T* dy, const T* dlast, T* dstate) {
  extended_grad<W>(in, dy, dlast, 0, W - 1,
                   [&](int64_t j, int64_t d, auto io, F32 v) { io.put(dstate + j * in.dim + d, v); });
}

template <int W, class T>
void weight_grad_w(const CausalConv1dRows<T>& in, const T* dy, int64_t t0, int64_t t1, float* partial) {
  for_vectors(in.dim, [&](int64_t d, auto io) {
    F32 weight[W];
    const F32 bias = load_weight<W>(in.weight, in.bias, in.dim, d, io, weight);
    Window<W, T, decltype(io)> window(in, t0, d, io);
    F32 sums[W + 1];
    for (int k = 0; k <= W; ++k) sums[k] = io.get(partial + k * in.dim + d);
    for (int64_t t = t0; t < t1; ++t) {
      window.advance(in, t, d, io);
      const F32 q = pre_activation_grad(in, window, weight, bias, io.get(dy + t * in.dim + d));
      for (int k = 0; k < W; ++k) sums[k] = fma(q, window.rows[k], sums[k]);
      sums[W] = sums[W] + q;
    }
    for (int k = 0; k <= W; ++k) io.put(partial + k * in.dim + d, sums[k]);
  });
}

// Widths 2 to 4 are compiled apart, so that the window stays in registers.
template <class T>
void forward(const CausalConv1dRows<T>& in, T* y, int64_t t0, int64_t t1) {
  in.width == 2   ? forward_w<2>(in, y, t0, t1)
  : in.width == 3 ? forward_w<3>(in, y, t0, t1)
                  : forward_w<kMaxWidth>(in, y, t0, t1);
}

template <class T>
void input_grad(const CausalConv1dRows<T>& in, const T* dy, const T* dlast, T* dx, int64_t t0, int64_t t1) {
  in.width == 2   ? input_grad_w<2>(in, dy, dlast, dx, t0, t1)
  : in.width == 3 ? input_grad_w<3>(in, dy, dlast, dx, t0, t1)
                  : input_grad_w<kMaxWidth>(in, dy, dlast, dx, t0, t1);
}

template <class T>
void state_grad(const CausalConv1dRows<T>& in, const T* dy, const T* dlast, T* dstate) {
  in.width == 2   ? state_grad_w<2>(in, dy, dlast, dstate)
  : in.width == 3 ? state_grad_w<3>(in, dy, dlast, dstate)
                  : state_grad_w<kMaxWidth>(in, dy, dlast, dstate);
}

template <class T>
void weight_grad(const CausalConv1dRows<T>& in, const T* dy, int64_t t0, int64_t t1, float* partial) {
  in.width == 2   ? weight_grad_w<2>(in, dy, t0, t1, partial)
  : in.width == 3 ? weight_grad_w<3>(in, dy, t0, t1, partial)
                  : weight_grad_w<kMaxWidth>(in, dy, t0, t1, partial);
}

template <class T>
constexpr CausalConv1dKernels<T> kernels{forward<T>, input_grad<T>, state_grad<T>, weight_grad<T>};

}  // namespace

extern const CausalConv1dTable causal_conv1d_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
