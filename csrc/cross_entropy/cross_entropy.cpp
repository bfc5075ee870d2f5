#include "cross_entropy/cross_entropy.h"

namespace ghost {
namespace {

constexpr const char* kOp = "cross_entropy";

// Which rows have a target, and those targets as indices for the others too.
std::pair<mx::array, mx::array> valid_targets(const mx::array& targets, int classes, mx::Stream s) {
  const auto valid = mx::logical_and(mx::greater_equal(targets, mx::array(0), s),
                                     mx::less(targets, mx::array(classes), s), s);
  return {valid, mx::expand_dims(mx::where(valid, targets, mx::array(0), s), -1, s)};
}

ComposedForm composed_forward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    if (in[1].size() == 0) {  // MLX reduces no empty arrays
      const auto none = mx::zeros(in[1].shape(), mx::float32, s);
      return {none, none, none};
    }
    const auto logits = mx::astype(in[0], mx::float32, s);
    const auto [valid, index] = valid_targets(in[1], logits.shape(-1), s);
    const auto largest = mx::stop_gradient(mx::max(logits, -1, true, s), s);
    const auto shifted = mx::subtract(logits, largest, s);
    const auto logsum = mx::log(mx::sum(mx::exp(shifted, s), -1, false, s), s);
    const auto chosen = mx::squeeze(mx::take_along_axis(shifted, index, -1, s), -1, s);
    return {mx::where(valid, mx::subtract(logsum, chosen, s), mx::array(0.0f), s),
            mx::squeeze(largest, -1, s), logsum};
  };
}

// Same inputs and outputs as CrossEntropyGrad.
ComposedForm composed_backward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto column = [&](const mx::array& x) { return mx::expand_dims(x, -1, s); };
    // From the logits alone, so that gradients of this gradient reach them whole.
    const auto logits = mx::astype(in[0], mx::float32, s);
    const auto [valid, index] = valid_targets(in[1], logits.shape(-1), s);
    const auto p = mx::softmax(logits, -1, true, s);
    const auto hit = mx::equal(mx::arange(logits.shape(-1), mx::int32, s), index, s);
    const auto scale = column(mx::where(valid, in[4], mx::array(0.0f), s));
    const auto dlogits = mx::multiply(mx::subtract(p, mx::astype(hit, mx::float32, s), s), scale, s);
    return {mx::astype(dlogits, in[0].dtype(), s)};
  };
}

}  // namespace

mx::array cross_entropy(const mx::array& logits, const mx::array& targets, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype(kOp, "logits", logits);
  require(logits.ndim() >= 1 && logits.shape(-1) >= 1, kOp, "logits have the wrong shape, given ",
          shape_text(logits.shape()), ", allowed: (..., classes) with at least one class.");
  require(mx::issubdtype(targets.dtype(), mx::integer), kOp, "targets have the wrong dtype, given ",
          targets.dtype(), ", allowed: integers.");
  const mx::Shape rows(logits.shape().begin(), logits.shape().end() - 1);
  require_shape(kOp, "targets", targets, rows, "those of logits without the last,");
  const Arrays inputs{dense(logits, s), dense_index(targets, s)};
  const ComposedForm composed = composed_forward(s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  const auto primitive = std::make_shared<CrossEntropy>(s, composed);
  return outputs_of(primitive, inputs, {mx::float32, mx::float32, mx::float32}, work_of(logits.size()))[0];
}

// Only the loss leaves this operator, so the other cotangents are zero.
Arrays CrossEntropy::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                         const Arrays& outputs) {
  const mx::Stream s = stream();
  const Arrays inputs{primals[0], primals[1], outputs[1], outputs[2], dense_float32(cotangents[0], s)};
  const auto gradient = std::make_shared<CrossEntropyGrad>(s, composed_backward(s));
  return pick({outputs_of(gradient, inputs, {primals[0].dtype()})[0], mx::zeros_like(primals[1], s)},
              argnums);
}

}  // namespace ghost
