#include "embedding/embedding.h"

namespace ghost {
namespace {

constexpr const char* kOp = "embedding";

ComposedForm composed_forward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const int vocab = in[0].shape(0);
    const int dim = in[0].shape(1);
    if (dim == 0) {  // MLX's take divides by the row size
      mx::Shape shape = in[1].shape();
      shape.push_back(0);
      return {mx::zeros(shape, in[0].dtype(), s)};
    }
    const auto valid =
        mx::logical_and(mx::greater_equal(in[1], mx::array(0), s), mx::less(in[1], mx::array(vocab), s), s);
    // float32, so that the gradient sums in float32 too.
    const auto weight = mx::astype(in[0], mx::float32, s);
    const auto rows = mx::concatenate({weight, mx::zeros({1, dim}, mx::float32, s)}, 0, s);
    return {mx::astype(mx::take(rows, mx::where(valid, in[1], mx::array(vocab), s), 0, s), in[0].dtype(), s)};
  };
}

// Same inputs and outputs as EmbeddingGrad.
ComposedForm composed_backward(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto of_weight = [&](const Arrays& weight) { return composed_forward(s)({weight[0], in[1]}); };
    return mx::vjp(of_weight, {in[2]}, {in[0]}).second;
  };
}

}  // namespace

mx::array embedding(const mx::array& weight, const mx::array& tokens, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype(kOp, "weight", weight);
  require_shape(kOp, "weight", weight, {-1, -1}, "(vocab, dim)");
  require(mx::issubdtype(tokens.dtype(), mx::integer), kOp, "tokens have the wrong dtype, given ",
          tokens.dtype(), ", allowed: integers.");
  const Arrays inputs{dense(weight, s), dense_index(tokens, s)};
  const ComposedForm composed = composed_forward(s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<Embedding>(s, composed), inputs, {weight.dtype()},
                    work_of(tokens.size() * static_cast<size_t>(weight.shape(1))))[0];
}

Arrays Embedding::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                      const Arrays&) {
  const mx::Stream s = stream();
  const Arrays inputs{dense_as(cotangents[0], primals[0].dtype(), s), primals[1], primals[0]};
  const auto gradient = std::make_shared<EmbeddingGrad>(s, composed_backward(s));
  return pick({outputs_of(gradient, inputs, {primals[0].dtype()})[0], mx::zeros_like(primals[1], s)},
              argnums);
}

std::vector<mx::Shape> Embedding::output_shapes(const Arrays& inputs) {
  mx::Shape shape = inputs[1].shape();
  shape.push_back(inputs[0].shape(1));
  return {shape};
}

}  // namespace ghost
