#include "sparse_attention/sparse_attention.h"

#include <algorithm>
#include <cmath>

namespace ghost {
namespace {

constexpr const char* kOp = "sparse_attention";
constexpr size_t kOperands = 7;  // q, k, v and the four arrays of the state

// Same inputs and outputs as SparseAttentionGrad.
ComposedForm composed_backward(const SparseAttentionOptions& options, bool state_gradients, mx::Stream s) {
  return [options, state_gradients, s](const Arrays& in) -> Arrays {
    const size_t inputs = in.size() - 3;
    const Arrays rest(in.begin() + kOperands, in.begin() + static_cast<int64_t>(inputs));
    const auto forward = [&](const Arrays& operands) -> Arrays {
      Arrays all = operands;
      all.insert(all.end(), rest.begin(), rest.end());
      return {sparse_attention_composed(options, s)(all)[0]};
    };
    Arrays gradients = mx::vjp(forward, Arrays(in.begin(), in.begin() + kOperands), {in.back()}).second;
    if (!state_gradients) gradients.resize(3, gradients[0]);
    return gradients;
  };
}

}  // namespace

float SparseAttentionOptions::slope(int head) const {
  return std::exp2(-8.0f / static_cast<float>(num_heads) * static_cast<float>(head + 1));
}

mx::array sparse_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                           const SparseAttentionState& state, const std::optional<mx::array>& cu_seqlens,
                           int num_heads, int stride, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const bool ragged = cu_seqlens.has_value();
  require_io_dtype(kOp, "q", q);
  require(q.ndim() == (ragged ? 2 : 3), kOp, "q has the wrong shape, given ", shape_text(q.shape()),
          ragged ? ", allowed: (total, dim)." : ", allowed: (batch, seqlen, dim).");
  const int dim = q.shape(-1);
  require(stride >= 1, kOp, "stride is below 1, given ", stride, ", allowed: 1 or more.");
  require(num_heads >= 1 && dim % num_heads == 0, kOp, "num_heads does not divide dim, given ", num_heads,
          " and dim = ", dim, ", allowed: a divisor of dim.");
  if (ragged) require_cu_seqlens(kOp, *cu_seqlens);
  const int batch = ragged ? cu_seqlens->shape(0) - 1 : q.shape(0);
  const auto checked = [&](const char* name, const mx::array& x, const mx::Shape& shape,
                           const char* meaning) {
    require_io_dtype(kOp, name, x);
    require_shape(kOp, name, x, shape, meaning);
    return dense_float32(x, s);
  };
  Arrays inputs{dense_float32(q, s), checked("k", k, q.shape(), "that of q"),
                checked("v", v, q.shape(), "that of q")};
  inputs.push_back(checked("window_k", state.window_k, {batch, stride, dim}, "(batch, stride, dim)"));
  inputs.push_back(checked("window_v", state.window_v, {batch, stride, dim}, "(batch, stride, dim)"));
  inputs.push_back(checked("far_k", state.far_k, {batch, -1, dim}, "(batch, far, dim)"));
  inputs.push_back(checked("far_v", state.far_v, state.far_k.shape(), "that of far_k"));
  require_shape(kOp, "count", state.count, {batch}, "(batch,)");
  require(mx::issubdtype(state.count.dtype(), mx::integer), kOp, "count has the wrong dtype, given ",
          state.count.dtype(), ", allowed: integers.");
  inputs.push_back(dense_untraced(mx::astype(state.count, mx::int32, s), s));
  if (ragged) inputs.push_back(dense_untraced(*cu_seqlens, s));

  const SparseAttentionOptions options{num_heads, stride, ragged};
  const ComposedForm composed = sparse_attention_composed(options, s);
  if (use_composed(s, Kernels::cpu)) return mx::astype(composed(inputs)[0], q.dtype(), s);
  const auto primitive = std::make_shared<SparseAttention>(s, composed, options);
  return mx::astype(outputs_of(primitive, inputs, {mx::float32, mx::float32})[0], q.dtype(), s);
}

std::vector<mx::Shape> SparseAttention::output_shapes(const Arrays& inputs) {
  mx::Shape sums = inputs[0].shape();
  sums.back() = options_.num_heads;
  return {inputs[0].shape(), sums};
}

bool SparseAttention::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const SparseAttention&>(other).options_;
}

// Only y leaves this operator, so the other cotangent is zero.
Arrays SparseAttention::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                            const Arrays& outputs) {
  const mx::Stream s = stream();
  const bool state_gradients = std::any_of(argnums.begin(), argnums.end(),
                                           [](int i) { return i >= 3 && i < static_cast<int>(kOperands); });
  Arrays inputs = primals;
  inputs.insert(inputs.end(), {outputs[0], outputs[1], dense_float32(cotangents[0], s)});
  const auto gradient = std::make_shared<SparseAttentionGrad>(
      s, composed_backward(options_, state_gradients, s), options_, state_gradients);
  Arrays all = outputs_of(gradient, inputs, std::vector<mx::Dtype>(state_gradients ? 7 : 3, mx::float32));
  for (size_t i = all.size(); i < primals.size(); ++i) all.push_back(mx::zeros_like(primals[i], s));
  return pick(all, argnums);
}

std::vector<mx::Shape> SparseAttentionGrad::output_shapes(const Arrays& inputs) {
  std::vector<mx::Shape> shapes;
  for (size_t i = 0; i < (state_gradients_ ? kOperands : 3); ++i) shapes.push_back(inputs[i].shape());
  return shapes;
}

bool SparseAttentionGrad::is_equivalent(const mx::Primitive& other) const {
  const auto& that = static_cast<const SparseAttentionGrad&>(other);
  return options_ == that.options_ && state_gradients_ == that.state_gradients_;
}

}  // namespace ghost
