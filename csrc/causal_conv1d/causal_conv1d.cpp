#include "causal_conv1d/causal_conv1d.h"

#include "common/composed.h"

namespace ghost {
namespace {

constexpr const char* kOp = "causal_conv1d";

mx::array apply_silu(const mx::array& x, mx::Stream s) { return mx::multiply(x, mx::sigmoid(x, s), s); }

// Same inputs and outputs as CausalConv1d, from MLX's own operations.
ComposedForm composed_forward(CausalConv1dOptions options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    // float32 before anything is read twice, so that gradients are summed in float32 too.
    const auto x = mx::astype(in[0], mx::float32, s);
    const int dim = in[1].shape(0);
    const int width = in[1].shape(1);
    const int keep = width - 1;
    const auto& weight = in[1];
    auto y = in[2];
    const int batch = options.ragged ? in[4].shape(0) - 1 : x.shape(0);
    const auto state = mx::broadcast_to(mx::astype(in[3], mx::float32, s), {batch, keep, dim}, s);
    auto last = state;
    if (!options.ragged) {
      const int seqlen = x.shape(1);
      auto extended = mx::concatenate({state, x}, 1, s);
      for (int k = 0; k < width; ++k) {
        auto rows = mx::slice(extended, {0, k, 0}, {batch, k + seqlen, dim}, s);
        auto tap = mx::squeeze(mx::slice(weight, {0, k}, {dim, k + 1}, s), 1, s);
        y = mx::add(y, mx::multiply(rows, tap, s), s);
      }
      y = mx::broadcast_to(y, x.shape(), s);
      last = mx::slice(extended, {0, seqlen, 0}, {batch, seqlen + keep, dim}, s);
    } else {
      // Row t of sequence b, at position p, takes row p + k of [state_b; x_b]; both live in one stacked
      // operand.
      const int total = x.shape(0);
      const SequenceIndex index(in[4], total, s);
      auto stacked = mx::concatenate({mx::reshape(state, {batch * keep, dim}, s), x}, 0, s);
      auto row_of = [&](const mx::array& sequence, const mx::array& start, const mx::array& j) {
        auto in_state = mx::add(mx::multiply(sequence, mx::array(keep), s), j, s);
        auto in_x = mx::add(mx::add(start, mx::array(batch * keep - keep), s), j, s);
        return mx::where(mx::less(j, mx::array(keep), s), in_state, in_x, s);
      };
      for (int k = 0; k < width; ++k) {
        auto row = row_of(index.sequence, index.start, mx::add(index.position, mx::array(k), s));
        auto rows = mx::take(stacked, mx::where(index.inside, row, mx::array(0), s), 0, s);
        auto tap = mx::squeeze(mx::slice(weight, {0, k}, {dim, k + 1}, s), 1, s);
        y = mx::add(y, mx::multiply(rows, tap, s), s);
      }
      y = mx::where(mx::expand_dims(index.inside, 1, s), y, mx::array(0.0f), s);
      auto j = mx::add(mx::expand_dims(index.lengths, 1, s), mx::arange(keep, mx::int32, s), s);
      auto sequence = mx::expand_dims(mx::arange(batch, mx::int32, s), 1, s);
      last = mx::take(stacked, row_of(sequence, mx::expand_dims(index.starts, 1, s), j), 0, s);
    }
    if (options.silu) y = apply_silu(y, s);
    return {mx::astype(y, in[0].dtype(), s), mx::astype(last, in[3].dtype(), s)};
  };
}

// Same inputs and outputs as CausalConv1dGrad.
ComposedForm composed_backward(CausalConv1dOptions options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    const ComposedForm forward = composed_forward(options, s);
    Arrays rest(in.begin() + 4, in.end() - 2);
    const Arrays primals(in.begin(), in.begin() + 4);
    const auto of_floats = [&](const Arrays& varied) {
      Arrays inputs = varied;
      inputs.insert(inputs.end(), rest.begin(), rest.end());
      return forward(inputs);
    };
    return mx::vjp(of_floats, primals, {in[in.size() - 2], in[in.size() - 1]}).second;
  };
}

}  // namespace

std::pair<mx::array, mx::array> causal_conv1d(const mx::array& x, const mx::array& weight,
                                              const std::optional<mx::array>& bias,
                                              const std::optional<std::string>& activation,
                                              const std::optional<mx::array>& initial_state,
                                              const std::optional<mx::array>& cu_seqlens,
                                              mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const CausalConv1dOptions options{activation.has_value(), cu_seqlens.has_value(),
                                    initial_state.has_value()};
  require_io_dtype(kOp, "x", x);
  require_io_dtype(kOp, "weight", weight);
  require(!activation || *activation == "silu", kOp, "unknown activation, given '", activation.value_or(""),
          "', allowed: None, 'silu'.");
  require(weight.ndim() == 2 && weight.shape(1) >= 2 && weight.shape(1) <= 4, kOp,
          "weight has the wrong shape, given ", shape_text(weight.shape()),
          ", allowed: (dim, width) with width 2 to 4.");
  const int dim = weight.shape(0);
  const int keep = weight.shape(1) - 1;
  if (options.ragged) {
    require_cu_seqlens(kOp, *cu_seqlens);
    require_shape(kOp, "x", x, {-1, dim}, "(total, dim), dim that of weight,");
  } else {
    require_shape(kOp, "x", x, {-1, -1, dim}, "(batch, seqlen, dim), dim that of weight,");
  }
  const int batch = options.ragged ? cu_seqlens->shape(0) - 1 : x.shape(0);
  if (bias) {
    require_io_dtype(kOp, "bias", *bias);
    require_shape(kOp, "bias", *bias, {dim}, "(dim,)");
  }
  if (initial_state) {
    require_io_dtype(kOp, "initial_state", *initial_state);
    require_shape(kOp, "initial_state", *initial_state, {batch, keep, dim}, "(batch, width - 1, dim)");
  }

  const auto state =
      initial_state ? mx::astype(*initial_state, x.dtype(), s) : mx::zeros({1, keep, dim}, x.dtype(), s);
  Arrays inputs{dense(x, s), dense_float32(weight, s),
                bias ? dense_float32(*bias, s) : mx::zeros({dim}, mx::float32, s), dense(state, s)};
  if (options.ragged) inputs.push_back(dense(*cu_seqlens, s));
  const ComposedForm composed = composed_forward(options, s);
  if (use_composed(s, Kernels::cpu_and_metal)) {
    const Arrays out = composed(inputs);
    return {out[0], out[1]};
  }
  const auto primitive = std::make_shared<CausalConv1d>(s, composed, options);
  const Arrays out =
      mx::array::make_arrays(primitive->output_shapes(inputs), {x.dtype(), x.dtype()}, primitive, inputs);
  return {out[0], out[1]};
}

Arrays CausalConv1d::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                         const Arrays&) {
  const mx::Stream s = stream();
  Arrays inputs = primals;
  for (const auto& cotangent : cotangents) inputs.push_back(dense_as(cotangent, primals[0].dtype(), s));
  const auto gradient = std::make_shared<CausalConv1dGrad>(s, composed_backward(options_, s), options_);
  return pick(mx::array::make_arrays(gradient->output_shapes(inputs),
                                     {primals[0].dtype(), mx::float32, mx::float32, primals[3].dtype()},
                                     gradient, inputs),
              argnums);
}

std::vector<mx::Shape> CausalConv1d::output_shapes(const Arrays& inputs) {
  const auto& x = inputs[0];
  const auto& weight = inputs[1];
  return {x.shape(),
          {options_.ragged ? inputs[4].shape(0) - 1 : x.shape(0), weight.shape(1) - 1, weight.shape(0)}};
}

bool CausalConv1d::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const CausalConv1d&>(other).options_;
}

std::vector<mx::Shape> CausalConv1dGrad::output_shapes(const Arrays& inputs) {
  return {inputs[0].shape(), inputs[1].shape(), inputs[2].shape(), inputs[3].shape()};
}

bool CausalConv1dGrad::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const CausalConv1dGrad&>(other).options_;
}

}  // namespace ghost
