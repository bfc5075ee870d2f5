#include "gelu/gelu.h"

#include "gelu/gelu_kernels.h"

namespace ghost {
namespace {

mx::array scalar(float value) { return mx::array(value); }

// x clipped to where the curve still bends: beyond it x^2 would overflow long before the result changes.
mx::array bend(const mx::array& x, mx::Stream s) {
  return mx::clip(x, scalar(-kGeluRange), scalar(kGeluRange), s);
}

mx::array sigmoid_of(const mx::array& bent, mx::Stream s) {
  const auto inner = mx::add(scalar(1.0f), mx::multiply(scalar(kGeluCubic), mx::square(bent, s), s), s);
  return mx::sigmoid(mx::multiply(mx::multiply(scalar(kGeluScale), bent, s), inner, s), s);
}

ComposedForm composed_forward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto x = mx::astype(in[0], mx::float32, s);
    return {mx::astype(mx::multiply(x, sigmoid_of(bend(x, s), s), s), in[0].dtype(), s)};
  };
}

// Same inputs and outputs as GeluGrad.
ComposedForm composed_backward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto bent = bend(mx::astype(in[1], mx::float32, s), s);
    const auto y = sigmoid_of(bent, s);
    const auto slope = mx::multiply(
        scalar(kGeluScale),
        mx::add(scalar(1.0f), mx::multiply(scalar(3 * kGeluCubic), mx::square(bent, s), s), s), s);
    const auto rest = mx::multiply(mx::multiply(bent, slope, s), mx::subtract(scalar(1.0f), y, s), s);
    const auto gradient = mx::multiply(y, mx::add(scalar(1.0f), rest, s), s);
    const auto dx = mx::multiply(mx::astype(in[0], mx::float32, s), gradient, s);
    return {mx::astype(dx, in[0].dtype(), s)};
  };
}

}  // namespace

mx::array gelu(const mx::array& x, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype("gelu", "x", x);
  const Arrays inputs{dense(x, s)};
  const ComposedForm composed = composed_forward(s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<Gelu>(s, composed), inputs, {x.dtype()}, work_of(x.size()))[0];
}

Arrays Gelu::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) {
  const mx::Stream s = stream();
  const auto gradient = std::make_shared<GeluGrad>(s, composed_backward(s));
  return outputs_of(gradient, {dense_as(cotangents[0], primals[0].dtype(), s), primals[0]},
                    {primals[0].dtype()});
}

}  // namespace ghost
