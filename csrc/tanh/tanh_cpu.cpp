#include "common/dispatch.h"
#include "common/parallel.h"
#include "tanh/tanh.h"
#include "tanh/tanh_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kTile = 16384;  // elements per task: some 10 us, well above the cost of handing it out

template <class Fn>
void for_tiles(const mx::array& x, Fn fn) {
  const auto n = static_cast<int64_t>(x.size());
  parallel_for((n + kTile - 1) / kTile, [&](int64_t i) { fn(i * kTile, std::min(kTile, n - i * kTile)); });
}

}  // namespace

void Tanh::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() {
      const auto forward = tanh_kernels().get<T>().forward;
      for_tiles(in[0],
                [&](int64_t i, int64_t n) { forward(in_ptr<T>(in[0]) + i, out_ptr<T>(out[0]) + i, n); });
    });
  });
}

void TanhGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() {
      const auto backward = tanh_kernels().get<T>().backward;
      for_tiles(in[0], [&](int64_t i, int64_t n) {
        backward(in_ptr<T>(in[0]) + i, in_ptr<T>(in[1]) + i, out_ptr<T>(out[0]) + i, n);
      });
    });
  });
}

}  // namespace ghost
