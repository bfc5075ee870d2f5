#include <algorithm>
#include <utility>
#include <vector>

#include "common/dispatch.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "dense_matmul/dense_matmul.h"
#include "dense_matmul/dense_matmul_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kDotRows = 4;           // rows of a factor up to which the other is read once, in place
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
    parallel_for(ceil_div(outputs, each),
                 [&](int64_t i) { task(i * each, std::min((i + 1) * each, outputs)); });
  });
  dispatch_dtype(y.dtype(), [&]<class T>() { convert(y32.data(), out_ptr<T>(y), rows * outputs); });
}

// left right for a few rows of left, or left^T right where both have few rows.
void sum_few_rows(const mx::array& left, const mx::array& right, bool turned, mx::array& y) {
  const int64_t columns = right.shape(-1);
  const int64_t depth = leading_size(right);
  const int64_t count = static_cast<int64_t>(left.size()) / depth;
  std::vector<float> x(left.size());
  dispatch_dtype(left.dtype(), [&]<class T>() { convert(in_ptr<T>(left), x.data(), count * depth); });
  if (turned && depth > 1) {
    std::vector<float> columns_of_x(x.size());
    for (int64_t i = 0; i < count * depth; ++i) {
      columns_of_x[static_cast<size_t>(i)] = x[static_cast<size_t>(i % depth * count + i / depth)];
    }
    x = std::move(columns_of_x);
  }
  std::vector<float> y32(y.dtype() == mx::float32 ? 0 : y.size());
  float* result = y32.empty() ? out_ptr<float>(y) : y32.data();
  dispatch_dtype(right.dtype(), [&]<class T>() {
    const auto kernel = dense_dot_kernels().get<T>().sum_rows;
    const int64_t work = count * depth * columns;
    const int64_t side = turned ? count : columns;  // the longer one of the result
    const int64_t each = work < kSerialWork ? side : std::max<int64_t>(64, side * kTaskWork / work / 64 * 64);
    parallel_for_if(work >= kSerialWork, ceil_div(side, each), [&](int64_t i) {
      const int64_t begin = i * each;
      const int64_t end = std::min(begin + each, side);
      if (turned) {
        kernel(x.data() + begin * depth, end - begin, depth, in_ptr<T>(right), columns, 0, columns,
               result + begin * columns);
      } else {
        kernel(x.data(), count, depth, in_ptr<T>(right), columns, begin, end, result);
      }
    });
  });
  if (!y32.empty())
    dispatch_dtype(y.dtype(),
                   [&]<class T>() { convert(y32.data(), out_ptr<T>(y), static_cast<int64_t>(y.size())); });
}

}  // namespace

void DenseMatmul::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    const DenseForm form = options.form;
    if (form == DenseForm::NT && !options.batched && leading_size(in[0]) <= kDotRows) {
      return dot(in[0], in[1], out[0]);
    }
    if (form != DenseForm::NT && !options.batched && leading_size(in[0]) <= kDotRows && in[0].size() > 0 &&
        in[1].size() > 0) {
      return sum_few_rows(in[0], in[1], form == DenseForm::TN, out[0]);
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
