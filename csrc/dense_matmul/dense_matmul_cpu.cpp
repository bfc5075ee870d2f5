#include "common/dispatch.h"
#include "common/gemm.h"
#include "dense_matmul/dense_matmul.h"

namespace ghost {
namespace {

GemmOperand operand(const mx::array& x, int64_t rows, int64_t columns, bool over_rows) {
  GemmOperand result;
  dispatch_dtype(x.dtype(), [&]<class T>() {
    result = over_rows ? sum_rows(in_ptr<T>(x), rows, columns) : sum_columns(in_ptr<T>(x), rows, columns);
  });
  return result;
}

}  // namespace

void DenseMatmul::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [form = form_](const Arrays& in, Arrays& out) {
    const int64_t left_rows = leading_size(in[0]);
    const int64_t right_rows = leading_size(in[1]);
    const GemmOperand a = operand(in[0], left_rows, in[0].shape(-1), form == DenseForm::TN);
    const GemmOperand b = operand(in[1], right_rows, in[1].shape(-1), form != DenseForm::NT);
    const int64_t depth = form == DenseForm::TN ? left_rows : in[0].shape(-1);
    dispatch_dtype(out[0].dtype(), [&]<class T>() { gemm(a, b, depth, out_ptr<T>(out[0])); });
  });
}

}  // namespace ghost
