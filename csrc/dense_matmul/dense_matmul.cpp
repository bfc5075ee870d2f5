#include "dense_matmul/dense_matmul.h"

#include <optional>

namespace ghost {
namespace {

constexpr const char* kOp = "dense_matmul";

mx::Shape product_shape(const DenseOptions& options, const mx::array& left, const mx::array& right) {
  if (options.form == DenseForm::TN && !options.batched) return {left.shape(-1), right.shape(-1)};
  mx::Shape shape = left.shape();
  if (options.form == DenseForm::TN) shape[shape.size() - 2] = left.shape(-1);
  shape.back() = right.shape(options.form == DenseForm::NT ? -2 : -1);
  return shape;
}

// All leading dimensions as one; also of a vector.
mx::array as_rows(const mx::array& x, mx::Stream s) {
  return x.ndim() == 1 ? mx::expand_dims(x, 0, s) : mx::flatten(x, 0, -2, s);
}

ComposedForm composed_product(DenseOptions options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    auto left = mx::astype(in[0], mx::float32, s);
    auto right = mx::astype(in[1], mx::float32, s);
    if (options.form == DenseForm::TN) {
      if (!options.batched) {
        left = as_rows(left, s);
        right = as_rows(right, s);
      }
      left = mx::swapaxes(left, -1, -2, s);
    } else if (options.form == DenseForm::NT) {
      right = mx::swapaxes(right, -1, -2, s);
    }
    return {mx::astype(mx::matmul(left, right, s), options.dtype, s)};
  };
}

}  // namespace

mx::array dense_product(DenseOptions options, const mx::array& left, const mx::array& right, mx::Stream s) {
  const Arrays inputs{dense(left, s), dense(right, s)};
  const ComposedForm composed = composed_product(options, s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  const int64_t size = product_shape(options, left, right).back();
  return outputs_of(std::make_shared<DenseMatmul>(s, composed, options), inputs, {options.dtype},
                    static_cast<int64_t>(left.size()) * size)[0];
}

mx::array dense_matmul(const mx::array& x, const mx::array& weight, const std::string& activation,
                       mx::StreamOrDevice stream) {
  const Activation mode = parse_activation(kOp, activation, false);
  require_io_dtype(kOp, "x", x);
  require_io_dtype(kOp, "weight", weight);
  require(weight.ndim() >= 2, kOp, "weight has the wrong shape, given ", shape_text(weight.shape()),
          ", allowed: (N, K), or (..., N, K) for one product per leading index.");
  require(x.ndim() >= 1 && x.shape(-1) == weight.shape(-1), kOp, "x has the wrong shape, given ",
          shape_text(x.shape()), ", allowed: (..., K) with K = ", weight.shape(-1), ", that of weight.");
  const bool batched = weight.ndim() > 2;
  if (batched) {
    bool equal = x.ndim() == weight.ndim();
    for (int i = 0; equal && i + 2 < static_cast<int>(x.ndim()); ++i) equal = x.shape(i) == weight.shape(i);
    require(equal, kOp, "x has the wrong shape, given ", shape_text(x.shape()),
            ", allowed: the leading dimensions of weight ", shape_text(weight.shape()), ", then (M, K).");
  }
  return dense_product({DenseForm::NT, batched, x.dtype(), mode}, x, weight, mx::to_stream(stream));
}

// Each product is linear in both factors, and each factor's gradient is one of the products again.
Arrays DenseMatmul::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                        const Arrays&) {
  const auto& left = primals[0];
  const auto& right = primals[1];
  const auto dy = mx::astype(cotangents[0], options_.dtype, stream());
  const auto s = stream();
  Arrays gradients;
  for (int argnum : argnums) {
    const auto dtype = primals[static_cast<size_t>(argnum)].dtype();
    const auto product = [&](DenseForm form, const mx::array& a, const mx::array& b) {
      gradients.push_back(dense_product({form, options_.batched, dtype, options_.activation}, a, b, s));
    };
    switch (options_.form) {
      case DenseForm::NT:
        argnum == 0 ? product(DenseForm::NN, dy, right) : product(DenseForm::TN, dy, left);
        break;
      case DenseForm::NN:
        argnum == 0 ? product(DenseForm::NT, dy, right) : product(DenseForm::TN, left, dy);
        break;
      case DenseForm::TN:
        argnum == 0 ? product(DenseForm::NT, right, dy) : product(DenseForm::NN, left, dy);
        break;
    }
  }
  return gradients;
}

Arrays DenseMatmul::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  std::optional<mx::array> total;
  for (size_t i = 0; i < argnums.size(); ++i) {
    const bool of_left = argnums[i] == 0;
    const auto tangent = mx::astype(tangents[i], primals[of_left ? 0 : 1].dtype(), stream());
    const auto term =
        dense_product(options_, of_left ? tangent : primals[0], of_left ? primals[1] : tangent, stream());
    total = total ? mx::add(*total, term, stream()) : term;
  }
  return {*total};
}

std::pair<Arrays, std::vector<int>> DenseMatmul::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  // Batched rows against one weight are just more rows.
  if (options_.form == DenseForm::TN || options_.batched || axes[0] < 0 || axes[1] >= 0) {
    return Primitive::vmap(inputs, axes);
  }
  const auto rows = mx::moveaxis(inputs[0], axes[0], 0, stream());
  return {{dense_product(options_, rows, inputs[1], stream())}, {0}};
}

std::vector<mx::Shape> DenseMatmul::output_shapes(const Arrays& inputs) {
  return {product_shape(options_, inputs[0], inputs[1])};
}

bool DenseMatmul::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const DenseMatmul&>(other).options_;
}

}  // namespace ghost
