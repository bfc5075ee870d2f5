#pragma once

#include "common/primitive.h"

namespace ghost {

// y = x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)), which is the tanh form of the Gaussian error linear
// unit, elementwise over x of any shape. float32 arithmetic.
mx::array gelu(const mx::array& x, mx::StreamOrDevice s = {});

// Input x; output y.
class Gelu : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(Gelu)
};

// Inputs dy, x; output dx.
class GeluGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(GeluGrad)
};

}  // namespace ghost
