#pragma once

#include "common/primitive.h"

namespace ghost {

// y = x / sqrt(mean(x^2) + eps) * weight over the last dimension of x (..., dim); weight (dim,). Sums in
// float32.
mx::array rms_norm(const mx::array& x, const mx::array& weight, float eps, mx::StreamOrDevice s = {});

// h = x + residual of one shape and dtype, and the norm of h: returns h, y.
std::pair<mx::array, mx::array> add_rms_norm(const mx::array& x, const mx::array& residual,
                                             const mx::array& weight, float eps, mx::StreamOrDevice s = {});

// Inputs x, weight; output y.
class RmsNorm : public Primitive {
 public:
  RmsNorm(mx::Stream stream, ComposedForm composed, float eps)
      : Primitive(stream, std::move(composed)), eps_(eps) {}

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(RmsNorm)

 private:
  float eps_;
};

// Inputs x, residual, weight; outputs h, y.
class AddRmsNorm : public Primitive {
 public:
  AddRmsNorm(mx::Stream stream, ComposedForm composed, float eps)
      : Primitive(stream, std::move(composed)), eps_(eps) {}

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[0].shape(), inputs[0].shape()};
  }
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(AddRmsNorm)

 private:
  float eps_;
};

// Inputs dy, x, weight and, when x goes on past the norm, its gradient from there; outputs dx, dweight.
class RmsNormGrad : public Primitive {
 public:
  RmsNormGrad(mx::Stream stream, ComposedForm composed, float eps)
      : Primitive(stream, std::move(composed)), eps_(eps) {}

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(RmsNormGrad)

 private:
  float eps_;
};

}  // namespace ghost
