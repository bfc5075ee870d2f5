#include "adamw/adamw.h"

#include <algorithm>

namespace ghost {
namespace {

constexpr const char* kUpdate = "adamw_update";
// Parameters of one node. MLX gives every output of a node a list of all the others, so that the cost of a
// node grows with the square of their number.
constexpr size_t kParametersPerNode = 12;

mx::array element(const mx::array& x, int i, mx::Stream s) {
  return mx::reshape(mx::slice(x, {i}, {i + 1}, s), {}, s);
}

// Same inputs and outputs as AdamW.
ComposedForm composed_update(AdamWOptions options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    const size_t n = in.size() / 4;
    const auto factor = [&](int i) { return element(in.back(), i, s); };
    Arrays out(3 * n, in[0]);
    for (size_t i = 0; i < n; ++i) {
      const auto g = mx::multiply(in[n + i], factor(1), s);
      const auto blend = [&](const mx::array& old, const mx::array& fresh, float beta) {
        return mx::add(mx::multiply(mx::array(beta), old, s), mx::multiply(mx::array(1.0f - beta), fresh, s),
                       s);
      };
      const auto m = blend(in[2 * n + i], g, options.beta1);
      const auto v = blend(in[3 * n + i], mx::square(g, s), options.beta2);
      const auto size = mx::add(mx::multiply(mx::sqrt(v, s), factor(3), s), mx::array(options.eps), s);
      const auto move = mx::divide(mx::multiply(m, factor(2), s), size, s);
      out[i] = mx::subtract(mx::multiply(in[i], factor(0), s), move, s);
      out[n + i] = m;
      out[2 * n + i] = v;
    }
    return out;
  };
}

ComposedForm composed_norm(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    mx::array total(0.0f);
    for (const auto& x : in) total = mx::add(total, mx::sum(mx::square(x, s), s), s);
    return {mx::sqrt(total, s)};
  };
}

mx::array scalar_operand(const char* name, const mx::array& x, mx::Stream s) {
  require(x.size() == 1, kUpdate, name, " has the wrong shape, given ", shape_text(x.shape()),
          ", allowed: one element.");
  return mx::reshape(mx::astype(x, mx::float32, s), {1}, s);
}

}  // namespace

Arrays adamw_update(const Arrays& parameters, const Arrays& gradients, const Arrays& m, const Arrays& v,
                    const mx::array& rate, const mx::array& step, const mx::array& scale,
                    const AdamWOptions& options, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const size_t n = parameters.size();
  require(gradients.size() == n && m.size() == n && v.size() == n, kUpdate,
          "the lists differ in length, given ", n, " parameters, ", gradients.size(), " gradients, ",
          m.size(), " and ", v.size(), " moments, allowed: as many of each.");
  require(options.beta1 >= 0 && options.beta1 < 1 && options.beta2 >= 0 && options.beta2 < 1, kUpdate,
          "betas are out of range, given ", options.beta1, " and ", options.beta2, ", allowed: [0, 1).");
  const mx::array zero(0.0f);
  const auto operand = [&](const char* name, const Arrays& list, size_t i, bool zeros_known = false) {
    require(list[i].dtype() == mx::float32, kUpdate, name, "[", i, "] has the wrong dtype, given ",
            list[i].dtype(), ", allowed: float32.");
    require_shape(kUpdate, name, list[i], parameters[i].shape(), "that of its parameter");
    return zeros_known && known_zero(list[i]) ? zero : dense(list[i], s);
  };
  const auto one = mx::array({1.0f});
  const auto lr = scalar_operand("rate", rate, s);
  const auto count = scalar_operand("step", step, s);
  const auto missing = [&](float beta) {
    return mx::subtract(one, mx::power(mx::array({beta}), count, s), s);
  };
  const auto factors =
      mx::concatenate({mx::subtract(one, mx::multiply(lr, mx::array(options.weight_decay), s), s),
                       scalar_operand("scale", scale, s), mx::divide(lr, missing(options.beta1), s),
                       mx::rsqrt(missing(options.beta2), s)},
                      0, s);
  const ComposedForm composed = composed_update(options, s);
  Arrays updated(3 * n, zero);
  for (size_t begin = 0; begin < n; begin += kParametersPerNode) {
    const size_t end = std::min(n, begin + kParametersPerNode);
    Arrays inputs;
    for (size_t i = begin; i < end; ++i) inputs.push_back(operand("parameters", parameters, i));
    for (size_t i = begin; i < end; ++i) inputs.push_back(operand("gradients", gradients, i, true));
    for (size_t i = begin; i < end; ++i) inputs.push_back(operand("m", m, i));
    for (size_t i = begin; i < end; ++i) inputs.push_back(operand("v", v, i));
    inputs.push_back(factors);
    const auto out = use_composed(s, Kernels::cpu)
                         ? composed(inputs)
                         : outputs_of(std::make_shared<AdamW>(s, composed, options), inputs,
                                      std::vector<mx::Dtype>(3 * (end - begin), mx::float32));
    for (size_t k = 0; k < out.size(); ++k) {
      updated[k / (end - begin) * n + begin + k % (end - begin)] = out[k];
    }
  }
  return updated;
}

mx::array global_norm(const Arrays& arrays, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  Arrays inputs;
  for (const auto& x : arrays) {
    require_io_dtype("global_norm", "an array", x);
    if (!known_zero(x)) inputs.push_back(dense_float32(x, s));
  }
  const ComposedForm composed = composed_norm(s);
  if (use_composed(s, Kernels::cpu) || inputs.empty()) return composed(inputs)[0];
  return outputs_of(std::make_shared<GlobalNorm>(s, composed), inputs, {mx::float32})[0];
}

std::vector<mx::Shape> AdamW::output_shapes(const Arrays& inputs) {
  const size_t n = inputs.size() / 4;
  std::vector<mx::Shape> shapes;
  for (size_t i = 0; i < 3 * n; ++i) shapes.push_back(inputs[i % n].shape());
  return shapes;
}

bool AdamW::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const AdamW&>(other).options_;
}

}  // namespace ghost
