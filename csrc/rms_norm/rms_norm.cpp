#include "rms_norm/rms_norm.h"

namespace ghost {
namespace {

constexpr const char* kOp = "rms_norm";

ComposedForm composed_forward(float eps, mx::Stream s) {
  return [eps, s](const Arrays& in) -> Arrays {
    const auto x = mx::astype(in[0], mx::float32, s);
    const auto power = mx::mean(mx::square(x, s), -1, true, s);
    const auto scale = mx::rsqrt(mx::add(power, mx::array(eps), s), s);
    return {mx::astype(mx::multiply(mx::multiply(x, scale, s), in[1], s), in[0].dtype(), s)};
  };
}

// Same inputs and outputs as RmsNormGrad.
ComposedForm composed_backward(float eps, mx::Stream s) {
  return [eps, s](const Arrays& in) -> Arrays {
    return mx::vjp(composed_forward(eps, s), {in[1], in[2]}, {in[0]}).second;
  };
}

}  // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype(kOp, "x", x);
  require_io_dtype(kOp, "weight", weight);
  require(x.ndim() >= 1, kOp, "x has the wrong shape, given (), allowed: (..., dim).");
  require_shape(kOp, "weight", weight, {x.shape(-1)}, "(dim,) of x");
  require(eps >= 0.0f, kOp, "eps is negative, given ", eps, ", allowed: 0 or more.");
  const Arrays inputs{dense(x, s), dense_float32(weight, s)};
  const ComposedForm composed = composed_forward(eps, s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<RmsNorm>(s, composed, eps), inputs, {x.dtype()})[0];
}

Arrays RmsNorm::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                    const Arrays&) {
  const mx::Stream s = stream();
  const auto gradient = std::make_shared<RmsNormGrad>(s, composed_backward(eps_, s), eps_);
  const Arrays inputs{dense_as(cotangents[0], primals[0].dtype(), s), primals[0], primals[1]};
  return pick(outputs_of(gradient, inputs, {primals[0].dtype(), mx::float32}), argnums);
}

bool RmsNorm::is_equivalent(const mx::Primitive& other) const {
  return eps_ == static_cast<const RmsNorm&>(other).eps_;
}

std::vector<mx::Shape> RmsNormGrad::output_shapes(const Arrays& inputs) {
  return {inputs[1].shape(), inputs[2].shape()};
}

bool RmsNormGrad::is_equivalent(const mx::Primitive& other) const {
  return eps_ == static_cast<const RmsNormGrad&>(other).eps_;
}

}  // namespace ghost
