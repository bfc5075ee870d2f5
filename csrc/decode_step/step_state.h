#pragma once

#include <algorithm>
#include <cmath>

#include "common/sequences.h"
#include "decode_step/decode_step.h"

namespace ghost {

// What the parts of decode_step that run at once, outside any graph, have in common.

inline const float* floats(const mx::array& x) { return x.data<float>(); }

inline float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

inline mx::array make(mx::Shape shape, mx::Dtype dtype = mx::float32) {
  size_t bytes = mx::size_of(dtype);
  for (int n : shape) bytes *= static_cast<size_t>(n);
  return mx::array(mx::allocator::malloc(bytes), std::move(shape), dtype);
}

// One array of the state, (batch, ...) float32, before and after.
struct State {
  mx::array old;
  mx::array now;

  static int64_t each(const mx::array& x) { return static_cast<int64_t>(x.size()) / x.shape(0); }
  const float* before(int64_t b) const { return old.data<float>() + b * each(old); }
  float* after(int64_t b) const { return const_cast<mx::array&>(now).data<float>() + b * each(now); }
  void keep(int64_t b) const { std::copy_n(before(b), each(old), after(b)); }
};

// Keys and values of the rows that the sequences have seen. `r` are recent, and the window is as of before
// them.
struct AttentionCache {
  const mx::array& window_k;
  const mx::array& window_v;
  const mx::array& recent_k;
  const mx::array& recent_v;
  const mx::array& strided_k;
  const mx::array& strided_v;
  const mx::array& count;

  // The 7 arrays from in[at] on.
  AttentionCache(const Arrays& in, size_t at, int64_t stride)
      : window_k(in[at]),
        window_v(in[at + 1]),
        recent_k(in[at + 2]),
        recent_v(in[at + 3]),
        strided_k(in[at + 4]),
        strided_v(in[at + 5]),
        count(in[at + 6]) {
    require(r() < stride && recent_v.shape() == recent_k.shape() && strided_v.shape() == strided_k.shape(),
            "decode_step", "keys and values of a state do not fit each other.");
  }
  int64_t r() const { return recent_k.shape(1); }
  void keep(Arrays& out) const {
    for (const auto* x : {&window_k, &window_v, &recent_k, &recent_v, &strided_k, &strided_v, &count})
      out.push_back(*x);
  }
};

// The window with its recent rows in it.
mx::array settled_window(const mx::array& window, const mx::array& recent);

// Keys and values.
template <class T>
struct KeysAndValues {
  T keys;
  T values;
};

// The 7 arrays of a cache after new rows of the sequences, which are at `spans`; `windows` are settled.
Arrays cache_after(const AttentionCache& cache, const KeysAndValues<mx::array>& windows,
                   const KeysAndValues<const float*>& rows, const std::vector<Span>& spans);

// decode_step() for several bytes of every stream.
Arrays prefill(const DecodeWeights& weights, DecodePiece piece, const Arrays& inputs);

}  // namespace ghost
