#include <cmath>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "cross_entropy/cross_entropy.h"
#include "cross_entropy/cross_entropy_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kTileLogits = 16384;  // per task: some 10 us

template <class Fn>
void for_rows(const mx::array& logits, Fn fn) {
  const int64_t rows = row_count(logits);
  const int64_t tile = std::max<int64_t>(1, kTileLogits / logits.shape(-1));
  parallel_for((rows + tile - 1) / tile, [&](int64_t i) {
    for (int64_t row = i * tile; row < std::min(rows, (i + 1) * tile); ++row) fn(row);
  });
}

template <class T>
T from_float(float x) {
  if constexpr (std::is_same_v<T, float>) {
    return x;
  } else if constexpr (std::is_same_v<T, float16>) {
    return to_float16(x);
  } else {
    return to_bfloat16(x);
  }
}

float to_float(float x) { return x; }

template <class T>
void forward(const Arrays& in, Arrays& outputs) {
  const int64_t classes = in[0].shape(-1);
  const auto sum_exp = cross_entropy_kernels().get<T>().sum_exp;
  for_rows(in[0], [&](int64_t row) {
    const T* logits = in_ptr<T>(in[0]) + row * classes;
    float largest = 0.0f;
    float total = 0.0f;
    sum_exp(logits, classes, &largest, &total);
    const float logsum = std::log(total);
    const int32_t target = in[1].data<int32_t>()[row];
    const bool counts = target >= 0 && target < classes;
    outputs[0].data<float>()[row] = counts ? logsum - (to_float(logits[target]) - largest) : 0.0f;
    outputs[1].data<float>()[row] = largest;
    outputs[2].data<float>()[row] = logsum;
  });
}

template <class T>
void backward(const Arrays& in, mx::array& dlogits) {
  const int64_t classes = in[0].shape(-1);
  const auto softmax = cross_entropy_kernels().get<T>().softmax;
  for_rows(in[0], [&](int64_t row) {
    const T* logits = in_ptr<T>(in[0]) + row * classes;
    T* out = out_ptr<T>(dlogits) + row * classes;
    const int32_t target = in[1].data<int32_t>()[row];
    if (target < 0 || target >= classes) {
      std::fill(out, out + classes, T{});
      return;
    }
    const float largest = in[2].data<float>()[row];
    const float logsum = in[3].data<float>()[row];
    const float dloss = in[4].data<float>()[row];
    // Not p - 1 of a rounded p: a confident row's gradient must keep its digits.
    const float hit = std::expm1(to_float(logits[target]) - largest - logsum) * dloss;
    softmax(logits, largest, logsum, dloss, out, classes);
    out[target] = from_float<T>(hit);
  });
}

}  // namespace

void CrossEntropy::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { forward<T>(in, out); });
  });
}

void CrossEntropyGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { backward<T>(in, out[0]); });
  });
}

}  // namespace ghost
