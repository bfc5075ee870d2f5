#pragma once

#include "common/primitive.h"

namespace ghost {

// Rows of weight (vocab, dim) for tokens (...) of any integer dtype: (..., dim), zeros where a token is not
// in 0..vocab - 1.
mx::array embedding(const mx::array& weight, const mx::array& tokens, mx::StreamOrDevice s = {});

// Inputs weight, tokens; output the rows.
class Embedding : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(Embedding)
};

// Inputs dy, tokens, weight (for its shape); output dweight, dense.
class EmbeddingGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[2].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(EmbeddingGrad)
};

}  // namespace ghost
