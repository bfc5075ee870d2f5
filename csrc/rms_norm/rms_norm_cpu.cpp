#include "common/dispatch.h"
#include "common/parallel.h"
#include "rms_norm/rms_norm.h"
#include "rms_norm/rms_norm_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kTileRows = 64;  // rows per task, and per partial sum of dweight

int64_t tiles_of(int64_t rows) { return (rows + kTileRows - 1) / kTileRows; }

template <class T>
void forward(const Arrays& in, mx::array& y, float eps) {
  const int64_t rows = row_count(in[0]);
  const int64_t dim = in[1].size();
  const auto kernel = rms_norm_kernels().get<T>().forward;
  parallel_for(tiles_of(rows), [&](int64_t i) {
    const int64_t offset = i * kTileRows * dim;
    kernel(in_ptr<T>(in[0]) + offset, in[1].data<float>(), eps, out_ptr<T>(y) + offset,
           std::min(kTileRows, rows - i * kTileRows), dim);
  });
}

template <class T>
void add_forward(const Arrays& in, Arrays& out, float eps) {
  const int64_t rows = row_count(in[0]);
  const int64_t dim = in[2].size();
  const auto kernel = rms_norm_kernels().get<T>().add_forward;
  parallel_for(tiles_of(rows), [&](int64_t i) {
    const int64_t offset = i * kTileRows * dim;
    kernel(in_ptr<T>(in[0]) + offset, in_ptr<T>(in[1]) + offset, in[2].data<float>(), eps,
           out_ptr<T>(out[0]) + offset, out_ptr<T>(out[1]) + offset,
           std::min(kTileRows, rows - i * kTileRows), dim);
  });
}

template <class T>
void backward(const Arrays& in, mx::array& dx, mx::array& dweight, float eps) {
  const int64_t rows = row_count(in[1]);
  const int64_t dim = in[2].size();
  const auto kernel = rms_norm_kernels().get<T>().backward;
  std::vector<float> partials(static_cast<size_t>(tiles_of(rows) * dim));
  parallel_for(tiles_of(rows), [&](int64_t i) {
    const int64_t offset = i * kTileRows * dim;
    const T* dh = in.size() > 3 ? in_ptr<T>(in[3]) + offset : nullptr;
    kernel(in_ptr<T>(in[0]) + offset, in_ptr<T>(in[1]) + offset, in[2].data<float>(), dh, eps,
           out_ptr<T>(dx) + offset, partials.data() + i * dim, std::min(kTileRows, rows - i * kTileRows),
           dim);
  });
  float* total = dweight.data<float>();
  std::fill(total, total + dim, 0.0f);
  for (int64_t i = 0; i < tiles_of(rows); ++i) {
    for (int64_t d = 0; d < dim; ++d) total[d] += partials[static_cast<size_t>(i * dim + d)];
  }
}

}  // namespace

void RmsNorm::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [eps = eps_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { forward<T>(in, out[0], eps); });
  });
}

void AddRmsNorm::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [eps = eps_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { add_forward<T>(in, out, eps); });
  });
}

void RmsNormGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [eps = eps_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { backward<T>(in, out[0], out[1], eps); });
  });
}

}  // namespace ghost
