#pragma once

#include <algorithm>

#include "common/dispatch.h"
#include "common/elementwise_kernels.h"
#include "common/parallel.h"
#include "common/primitive.h"

namespace ghost {

// eval_cpu of primitives that are a function of one value.
namespace elementwise {

using Table = const ElementwiseTable& (*)();  // asked for when it runs: tests change the instruction set

constexpr int64_t kTile = 16384;  // elements per task: some 10 us, well above the cost of handing it out

template <class Fn>
void for_tiles(const mx::array& x, Fn fn) {
  const auto n = static_cast<int64_t>(x.size());
  parallel_for((n + kTile - 1) / kTile, [&](int64_t i) { fn(i * kTile, std::min(kTile, n - i * kTile)); });
}

// Input x; output y.
inline void forward(mx::Stream s, const Arrays& inputs, Arrays& outputs, Table table) {
  dispatch_cpu_in_place(s, inputs, outputs, [table](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() {
      const auto kernel = table().get<T>().forward;
      for_tiles(in[0],
                [&](int64_t i, int64_t n) { kernel(in_ptr<T>(in[0]) + i, out_ptr<T>(out[0]) + i, n); });
    });
  });
}

// Inputs dy, x; output dx.
inline void backward(mx::Stream s, const Arrays& inputs, Arrays& outputs, Table table) {
  dispatch_cpu_in_place(s, inputs, outputs, [table](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() {
      const auto kernel = table().get<T>().backward;
      for_tiles(in[0], [&](int64_t i, int64_t n) {
        kernel(in_ptr<T>(in[0]) + i, in_ptr<T>(in[1]) + i, out_ptr<T>(out[0]) + i, n);
      });
    });
  });
}

}  // namespace elementwise
}  // namespace ghost
