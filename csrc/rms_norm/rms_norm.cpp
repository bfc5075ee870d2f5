#include "rms_norm/rms_norm.h"

namespace ghost {
namespace {

ComposedForm composed_forward(float eps, mx::Stream s) {
  return [eps, s](const Arrays& in) -> Arrays {
    const auto x = mx::astype(in[0], mx::float32, s);
    const auto power = mx::mean(mx::square(x, s), -1, true, s);
    const auto scale = mx::rsqrt(mx::add(power, mx::array(eps), s), s);
    return {mx::astype(mx::multiply(mx::multiply(x, scale, s), in[1], s), in[0].dtype(), s)};
  };
}

ComposedForm composed_add(float eps, mx::Stream s) {
  return [eps, s](const Arrays& in) -> Arrays {
    const auto h = mx::add(in[0], in[1], s);
    return {h, composed_forward(eps, s)({h, in[2]})[0]};
  };
}

// Same inputs and outputs as RmsNormGrad.
ComposedForm composed_backward(float eps, mx::Stream s) {
  return [eps, s](const Arrays& in) -> Arrays {
    // float32 to the end: dx is rounded once, after the sum.
    const auto wide = [&](const mx::array& x) { return mx::astype(x, mx::float32, s); };
    Arrays gradients = mx::vjp(composed_forward(eps, s), {wide(in[1]), in[2]}, {wide(in[0])}).second;
    if (in.size() > 3) gradients[0] = mx::add(gradients[0], wide(in[3]), s);
    gradients[0] = mx::astype(gradients[0], in[1].dtype(), s);
    return gradients;
  };
}

Arrays gradients_of(const Arrays& inputs, float eps, mx::Stream s) {
  const auto gradient = std::make_shared<RmsNormGrad>(s, composed_backward(eps, s), eps);
  return outputs_of(gradient, inputs, {inputs[1].dtype(), mx::float32});
}

void check(const char* op, const mx::array& x, const mx::array& weight, float eps) {
  require_io_dtype(op, "x", x);
  require_io_dtype(op, "weight", weight);
  require(x.ndim() >= 1, op, "x has the wrong shape, given (), allowed: (..., dim).");
  require_shape(op, "weight", weight, {x.shape(-1)}, "(dim,) of x");
  require(eps >= 0.0f, op, "eps is negative, given ", eps, ", allowed: 0 or more.");
}

}  // namespace

mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  check("rms_norm", x, weight, eps);
  const Arrays inputs{dense(x, s), dense_float32(weight, s)};
  const ComposedForm composed = composed_forward(eps, s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<RmsNorm>(s, composed, eps), inputs, {x.dtype()}, work_of(x.size()))[0];
}

std::pair<mx::array, mx::array> add_rms_norm(const mx::array& x, const mx::array& residual,
                                             const mx::array& weight, float eps, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  constexpr const char* op = "add_rms_norm";
  check(op, x, weight, eps);
  require_shape(op, "residual", residual, x.shape(), "that of x");
  require(residual.dtype() == x.dtype(), op, "residual has the wrong dtype, given ", residual.dtype(),
          ", allowed: that of x, ", x.dtype(), ".");
  const Arrays inputs{dense(x, s), dense(residual, s), dense_float32(weight, s)};
  const ComposedForm composed = composed_add(eps, s);
  const Arrays out = use_composed(s, Kernels::cpu)
                         ? composed(inputs)
                         : outputs_of(std::make_shared<AddRmsNorm>(s, composed, eps), inputs,
                                      {x.dtype(), x.dtype()}, work_of(x.size()));
  return {out[0], out[1]};
}

Arrays RmsNorm::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                    const Arrays&) {
  const mx::Stream s = stream();
  return pick(gradients_of({dense_as(cotangents[0], primals[0].dtype(), s), primals[0], primals[1]}, eps_, s),
              argnums);
}

// x and residual have one gradient.
Arrays AddRmsNorm::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays& outputs) {
  const mx::Stream s = stream();
  const auto dtype = primals[0].dtype();
  const Arrays gradients = gradients_of(
      {dense_as(cotangents[1], dtype, s), outputs[0], primals[2], dense_as(cotangents[0], dtype, s)}, eps_,
      s);
  return pick({gradients[0], gradients[0], gradients[1]}, argnums);
}

bool AddRmsNorm::is_equivalent(const mx::Primitive& other) const {
  return eps_ == static_cast<const AddRmsNorm&>(other).eps_;
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
