#include "silu/silu.h"

#include "silu/silu_kernels.h"

namespace ghost {
namespace {

// Below -88 the sigmoid is zero to float32, and x times it.
mx::array bend(const mx::array& x, mx::Stream s) { return mx::maximum(x, mx::array(-88.0f), s); }

ComposedForm composed_forward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto x = bend(mx::astype(in[0], mx::float32, s), s);
    return {mx::astype(mx::multiply(x, mx::sigmoid(x, s), s), in[0].dtype(), s)};
  };
}

// Same inputs and outputs as SiluGrad.
ComposedForm composed_backward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto one = mx::array(1.0f);
    const auto x = bend(mx::astype(in[1], mx::float32, s), s);
    const auto y = mx::sigmoid(x, s);
    const auto rest = mx::multiply(x, mx::subtract(one, y, s), s);
    const auto gradient = mx::multiply(y, mx::add(one, rest, s), s);
    const auto dx = mx::multiply(mx::astype(in[0], mx::float32, s), gradient, s);
    return {mx::astype(dx, in[0].dtype(), s)};
  };
}

}  // namespace

mx::array silu(const mx::array& x, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype("silu", "x", x);
  const Arrays inputs{dense(x, s)};
  const ComposedForm composed = composed_forward(s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<Silu>(s, composed), inputs, {x.dtype()}, work_of(x.size()))[0];
}

Arrays Silu::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&, const Arrays&) {
  const mx::Stream s = stream();
  const auto gradient = std::make_shared<SiluGrad>(s, composed_backward(s));
  return outputs_of(gradient, {dense_as(cotangents[0], primals[0].dtype(), s), primals[0]},
                    {primals[0].dtype()});
}

}  // namespace ghost
