#include "tanh/tanh.h"

namespace ghost {
namespace {

ComposedForm composed_forward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    return {mx::astype(mx::tanh(mx::astype(in[0], mx::float32, s), s), in[0].dtype(), s)};
  };
}

// Same inputs and outputs as TanhGrad.
ComposedForm composed_backward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto y = mx::tanh(mx::astype(in[1], mx::float32, s), s);
    const auto slope = mx::subtract(mx::array(1.0f), mx::square(y, s), s);
    return {mx::astype(mx::multiply(mx::astype(in[0], mx::float32, s), slope, s), in[0].dtype(), s)};
  };
}

}  // namespace

mx::array tanh(const mx::array& x, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype("tanh", "x", x);
  const Arrays inputs{dense(x, s)};
  const ComposedForm composed = composed_forward(s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<Tanh>(s, composed), inputs, {x.dtype()}, work_of(x.size()))[0];
}

Arrays Tanh::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) {
  const mx::Stream s = stream();
  const auto gradient = std::make_shared<TanhGrad>(s, composed_backward(s));
  return outputs_of(gradient, {dense_as(cotangents[0], primals[0].dtype(), s), primals[0]},
                    {primals[0].dtype()});
}

}  // namespace ghost
