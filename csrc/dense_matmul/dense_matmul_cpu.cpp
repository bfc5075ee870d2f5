#include "common/dispatch.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "dense_matmul/dense_matmul.h"

namespace ghost {
namespace {

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

}  // namespace

void DenseMatmul::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    const DenseForm form = options.form;
    const Matrices left = matrices_of(in[0], options.batched);
    const Matrices right = matrices_of(in[1], options.batched);
    const Matrices product = matrices_of(out[0], options.batched);
    const int64_t depth = form == DenseForm::TN ? left.rows : left.columns;
    dispatch_dtype(out[0].dtype(), [&]<class T>() {
      parallel_for(product.count, [&](int64_t i) {
        const GemmOperand a = operand(in[0], left, i, form == DenseForm::TN);
        const GemmOperand b = operand(in[1], right, i, form != DenseForm::NT);
        gemm(a, b, depth, out_ptr<T>(out[0]) + i * product.rows * product.columns);
      });
    });
  });
}

}  // namespace ghost
