#pragma once

#include "common/primitive.h"

namespace ghost {

struct AdamWOptions {
  float beta1 = 0.9f;
  float beta2 = 0.999f;
  float eps = 1e-8f;
  float weight_decay = 0.0f;
  bool operator==(const AdamWOptions&) const = default;
};

// One step of AdamW on a list of float32 arrays with their gradients and moments; `rate`, `step` (counted
// from 1) and `scale`, a factor of the gradients, are scalars. Returns the new parameters, then m, then v.
Arrays adamw_update(const Arrays& parameters, const Arrays& gradients, const Arrays& m, const Arrays& v,
                    const mx::array& rate, const mx::array& step, const mx::array& scale,
                    const AdamWOptions& options, mx::StreamOrDevice s = {});

// Square root of the sum of squares of all elements of all arrays, float32 ().
mx::array global_norm(const Arrays& arrays, mx::StreamOrDevice s = {});

// Inputs parameters, gradients (or a single zero for all elements), m, v (as many of each) and the factors
// (4,): of the parameters, the gradients, m and sqrt(v); outputs parameters, m, v.
class AdamW : public Primitive {
 public:
  AdamW(mx::Stream stream, ComposedForm composed, AdamWOptions options)
      : Primitive(stream, std::move(composed)), options_(options) {}

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(AdamW)

 private:
  AdamWOptions options_;
};

// Inputs any arrays; output their norm.
class GlobalNorm : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays&) override { return {{}}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(GlobalNorm)
};

}  // namespace ghost
