#pragma once

#include "common/primitive.h"

namespace ghost {

// y = x * sigmoid(x), elementwise over x of any shape. float32 arithmetic.
mx::array silu(const mx::array& x, mx::StreamOrDevice s = {});

// Input x; output y.
class Silu : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(Silu)
};

// Inputs dy, x; output dx.
class SiluGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(SiluGrad)
};

}  // namespace ghost
