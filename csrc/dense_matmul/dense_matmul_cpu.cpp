#include <algorithm>
#include <vector>

#include "common/dispatch.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "dense_matmul/dense_matmul.h"
#include "dense_matmul/dense_matmul_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kDotRows = 4;           // rows of x up to which the weight is read once, in place
constexpr int64_t kSerialWork = 1 << 20;  // multiply-adds not worth waking a thread for
constexpr int64_t kTaskWork = 1 << 18;

// A stack of row-major matrices; one holding all leading dimensions as rows when the product is not batched.
struct Matrices {
  int64_t count;
  int64_t rows;
  int64_t columns;
};

Matrices matrices_of(const mx::array& x, bool batched) {
  const int64_t columns = x.shape(-1);
  const int64_t rows = leading_size(x);
  if (!batched) return {1, rows, columns};
  const int64_t each = x.shape(-2);
  return {each ? rows / each : 0, each, columns};
}

GemmOperand operand(const mx::array& x, const Matrices& size, int64_t index, bool over_rows) {
  GemmOperand result;
  dispatch_dtype(x.dtype(), [&]<class T>() {
    const T* data = in_ptr<T>(x) + index * size.rows * size.columns;
    result = over_rows ? sum_rows(data, size.rows, size.columns) : sum_columns(data, size.rows, size.columns);
  });
  return result;
}

// x weight^T for a few rows of x.
void dot(const mx::array& x, const mx::array& weight, mx::array& y) {
  const int64_t rows = leading_size(x);
  const int64_t outputs = weight.shape(0);
  const int64_t columns = weight.shape(1);
  std::vector<float> x32(static_cast<size_t>(rows * columns));
  std::vector<float> y32(static_cast<size_t>(rows * outputs));
  dispatch_dtype(x.dtype(), [&]<class T>() { convert(in_ptr<T>(x), x32.data(), rows * columns); });
  dispatch_dtype(weight.dtype(), [&]<class T>() {
    const auto kernel = dense_dot_kernels().get<T>().dot;
    const int64_t work = rows * outputs * columns;
    const int64_t each = std::max<int64_t>(4, kTaskWork / std::max<int64_t>(rows * columns, 1) / 4 * 4);
    const auto task = [&](int64_t n0, int64_t n1) {
      kernel(x32.data(), static_cast<int>(rows), in_ptr<T>(weight), columns, n0, n1, y32.data(), outputs);
    };
    if (work < kSerialWork) return task(0, outputs);
    parallel_for((outputs + each - 1) / each,
                 [&](int64_t i) { task(i * each, std::min((i + 1) * each, outputs)); });
  });
  dispatch_dtype(y.dtype(), [&]<class T>() { convert(y32.data(), out_ptr<T>(y), rows * outputs); });
}

}  // namespace

void DenseMatmul::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    const DenseForm form = options.form;
    if (form == DenseForm::NT && !options.batched && leading_size(in[0]) <= kDotRows) {
      return dot(in[0], in[1], out[0]);
    }
    const Matrices left = matrices_of(in[0], options.batched);
    const Matrices right = matrices_of(in[1], options.batched);
    const Matrices product = matrices_of(out[0], options.batched);
    const int64_t depth = form == DenseForm::TN ? left.rows : left.columns;
    const GemmPrecision precision =
        options.activation == Activation::bfloat16 ? GemmPrecision::bfloat16 : GemmPrecision::float32;
    dispatch_dtype(out[0].dtype(), [&]<class T>() {
      const auto multiply = [&](int64_t i) {
        const GemmOperand a = operand(in[0], left, i, form == DenseForm::TN);
        const GemmOperand b = operand(in[1], right, i, form != DenseForm::NT);
        gemm(a, b, depth, out_ptr<T>(out[0]) + i * product.rows * product.columns, precision);
      };
      if (product.count * product.rows * product.columns * depth < kSerialWork) {
        for (int64_t i = 0; i < product.count; ++i) multiply(i);
      } else {
        parallel_for(product.count, multiply);
      }
    });
  });
}

}  // namespace ghost
