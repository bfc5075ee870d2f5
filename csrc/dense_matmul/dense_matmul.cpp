#include "dense_matmul/dense_matmul.h"

#include <optional>

namespace ghost {
namespace {

constexpr const char* kOp = "dense_matmul";

mx::Shape product_shape(DenseForm form, const mx::array& left, const mx::array& right) {
  if (form == DenseForm::TN) return {left.shape(-1), right.shape(-1)};
  mx::Shape shape = left.shape();
  shape.back() = right.shape(form == DenseForm::NT ? 0 : 1);
  return shape;
}

// All leading dimensions as one; also of a vector.
mx::array as_rows(const mx::array& x, mx::Stream s) {
  return x.ndim() == 1 ? mx::expand_dims(x, 0, s) : mx::flatten(x, 0, -2, s);
}

ComposedForm composed_product(DenseForm form, mx::Dtype dtype, mx::Stream s) {
  return [form, dtype, s](const Arrays& in) -> Arrays {
    const auto left = mx::astype(in[0], mx::float32, s);
    const auto right = mx::astype(in[1], mx::float32, s);
    if (form == DenseForm::TN) {
      const auto rows = mx::transpose(as_rows(left, s), s);
      return {mx::astype(mx::matmul(rows, as_rows(right, s), s), dtype, s)};
    }
    const auto weight = form == DenseForm::NT ? mx::transpose(right, s) : right;
    return {mx::astype(mx::matmul(left, weight, s), dtype, s)};
  };
}

}  // namespace

mx::array dense_product(DenseForm form, const mx::array& left, const mx::array& right, mx::Dtype dtype,
                        mx::Stream s) {
  const Arrays inputs{dense(left, s), dense(right, s)};
  const ComposedForm composed = composed_product(form, dtype, s);
  if (use_composed(s)) return composed(inputs)[0];
  return mx::array(product_shape(form, left, right), dtype,
                   std::make_shared<DenseMatmul>(s, composed, form, dtype), inputs);
}

mx::array dense_matmul(const mx::array& x, const mx::array& weight, mx::StreamOrDevice stream) {
  require_io_dtype(kOp, "x", x);
  require_io_dtype(kOp, "weight", weight);
  require_shape(kOp, "weight", weight, {-1, -1}, "(N, K)");
  require(x.ndim() >= 1 && x.shape(-1) == weight.shape(1), kOp, "x has the wrong shape, given ",
          shape_text(x.shape()), ", allowed: (..., K) with K = ", weight.shape(1), ", that of weight.");
  return dense_product(DenseForm::NT, x, weight, x.dtype(), mx::to_stream(stream));
}

// Each product is linear in both factors, and each factor's gradient is one of the products again.
Arrays DenseMatmul::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                        const Arrays&) {
  const auto& left = primals[0];
  const auto& right = primals[1];
  const auto& dy = cotangents[0];
  const auto s = stream();
  Arrays gradients;
  for (int argnum : argnums) {
    const auto dtype = primals[static_cast<size_t>(argnum)].dtype();
    switch (form_) {
      case DenseForm::NT:
        gradients.push_back(argnum == 0 ? dense_product(DenseForm::NN, dy, right, dtype, s)
                                        : dense_product(DenseForm::TN, dy, left, dtype, s));
        break;
      case DenseForm::NN:
        gradients.push_back(argnum == 0 ? dense_product(DenseForm::NT, dy, right, dtype, s)
                                        : dense_product(DenseForm::TN, left, dy, dtype, s));
        break;
      case DenseForm::TN:
        gradients.push_back(argnum == 0 ? dense_product(DenseForm::NT, right, dy, dtype, s)
                                        : dense_product(DenseForm::NN, left, dy, dtype, s));
        break;
    }
  }
  return gradients;
}

Arrays DenseMatmul::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  std::optional<mx::array> total;
  for (size_t i = 0; i < argnums.size(); ++i) {
    const bool of_left = argnums[i] == 0;
    const auto term = dense_product(form_, of_left ? tangents[i] : primals[0],
                                    of_left ? primals[1] : tangents[i], dtype_, stream());
    total = total ? mx::add(*total, term, stream()) : term;
  }
  return {*total};
}

std::pair<Arrays, std::vector<int>> DenseMatmul::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  // Batched rows against one weight are just more rows.
  if (form_ == DenseForm::TN || axes[0] < 0 || axes[1] >= 0) return Primitive::vmap(inputs, axes);
  const auto rows = mx::moveaxis(inputs[0], axes[0], 0, stream());
  return {{dense_product(form_, rows, inputs[1], dtype_, stream())}, {0}};
}

std::vector<mx::Shape> DenseMatmul::output_shapes(const Arrays& inputs) {
  return {product_shape(form_, inputs[0], inputs[1])};
}

bool DenseMatmul::is_equivalent(const mx::Primitive& other) const {
  const auto& o = static_cast<const DenseMatmul&>(other);
  return form_ == o.form_ && dtype_ == o.dtype_;
}

}  // namespace ghost
