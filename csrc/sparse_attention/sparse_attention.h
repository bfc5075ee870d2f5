#pragma once

#include "common/primitive.h"

namespace ghost {

// Rows of a sequence are numbered through all calls; this call's begin at `count`. Query n attends to the
// rows n - d with d < stride, whose scores lose slope * d, and to every earlier row whose number is stride -
// 1 modulo stride.
struct SparseAttentionOptions {
  int num_heads = 1;
  int stride = 1;
  bool ragged = false;
  bool operator==(const SparseAttentionOptions&) const = default;

  // slope of head h (ALiBi).
  float slope(int head) const;
};

struct SparseAttentionState {
  mx::array window_k;  // (batch, stride, dim): the rows before this call, newest last
  mx::array window_v;
  mx::array far_k;  // (batch, far, dim): rows stride - 1, 2 stride - 1, ... before this call
  mx::array far_v;
  mx::array count;  // (batch,) int32: rows before this call
};

// q, k, v (batch, seqlen, dim), or (total, dim) with cu_seqlens (batch + 1,); y like q. Softmax and sums in
// float32.
mx::array sparse_attention(const mx::array& q, const mx::array& k, const mx::array& v,
                           const SparseAttentionState& state, const std::optional<mx::array>& cu_seqlens,
                           int num_heads, int stride, mx::StreamOrDevice s = {});

// Inputs q, k, v, window_k, window_v, far_k, far_v (all float32), count and, when ragged, cu_seqlens; outputs
// y and the logsumexp of every query's scores, (..., num_heads).
class SparseAttention : public Primitive {
 public:
  SparseAttention(mx::Stream stream, ComposedForm composed, SparseAttentionOptions options)
      : Primitive(stream, std::move(composed)), options_(options) {}

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(SparseAttention)

 private:
  SparseAttentionOptions options_;
};

// Inputs those of SparseAttention, then y, logsumexp and dy; outputs the gradients of q, k and v, and with
// `state_gradients` of window_k, window_v, far_k and far_v.
class SparseAttentionGrad : public Primitive {
 public:
  SparseAttentionGrad(mx::Stream stream, ComposedForm composed, SparseAttentionOptions options,
                      bool state_gradients)
      : Primitive(stream, std::move(composed)), options_(options), state_gradients_(state_gradients) {}

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(SparseAttentionGrad)

 private:
  SparseAttentionOptions options_;
  bool state_gradients_;
};

// Inputs and outputs of the two primitives from MLX's own operations. Ragged ones evaluate cu_seqlens.
ComposedForm sparse_attention_composed(const SparseAttentionOptions& options, mx::Stream s);

}  // namespace ghost
