#pragma once

#include <optional>
#include <string>
#include <utility>

#include "common/primitive.h"

namespace ghost {

// Depthwise causal convolution over the rows of each sequence, channels last:
//   y[t, d] = act(bias[d] + sum_k weight[d, k] * x[t - (width - 1) + k, d])
// Rows before the sequence come from initial_state (batch, width - 1, dim), zeros when absent. last_state
// holds the last width - 1 rows of [initial_state; x], so that a sequence may be fed in pieces.
//
// x (batch, seqlen, dim), or (total, dim) with cu_seqlens (batch + 1,); weight (dim, width), width 2..4.
// Returns y like x and last_state (batch, width - 1, dim) in x's dtype. Sums in float32.
std::pair<mx::array, mx::array> causal_conv1d(const mx::array& x, const mx::array& weight,
                                              const std::optional<mx::array>& bias,
                                              const std::optional<std::string>& activation,
                                              const std::optional<mx::array>& initial_state,
                                              const std::optional<mx::array>& cu_seqlens,
                                              mx::StreamOrDevice s = {});

// What the forward and backward primitives share: which inputs are there and what is applied.
struct CausalConv1dOptions {
  bool silu = false;
  bool ragged = false;
  bool has_state = false;  // else initial_state is one zero sequence that stands for all
  bool operator==(const CausalConv1dOptions&) const = default;
};

// Inputs x, weight, bias, initial_state[, cu_seqlens]; outputs y, last_state.
class CausalConv1d : public Primitive {
 public:
  CausalConv1d(mx::Stream stream, ComposedForm composed, CausalConv1dOptions options)
      : Primitive(stream, std::move(composed)), options_(options) {}

  GHOST_EVAL
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(CausalConv1d)

 private:
  CausalConv1dOptions options_;
};

// Inputs of the forward, then dy, dlast_state; outputs dx, dweight, dbias, dinitial_state.
class CausalConv1dGrad : public Primitive {
 public:
  CausalConv1dGrad(mx::Stream stream, ComposedForm composed, CausalConv1dOptions options)
      : Primitive(stream, std::move(composed)), options_(options) {}

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(CausalConv1dGrad)

 private:
  CausalConv1dOptions options_;
};

}  // namespace ghost
