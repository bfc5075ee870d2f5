#pragma once

#include "common/primitive.h"

namespace ghost {

// loss = logsumexp(logits) - logits[target] of every row, float32; 0 where the target is no class.
// logits (..., classes); targets (...) of any integer dtype; loss (...).
mx::array cross_entropy(const mx::array& logits, const mx::array& targets, mx::StreamOrDevice s = {});

// Inputs logits, targets; outputs loss and what the gradient starts from: the largest logit of each row, and
// log(sum(exp(logits - largest))).
class CrossEntropy : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[1].shape(), inputs[1].shape(), inputs[1].shape()};
  }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(CrossEntropy)
};

// Inputs logits, targets, largest, logsum, dloss; output dlogits.
class CrossEntropyGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(CrossEntropyGrad)
};

}  // namespace ghost
