#pragma once

#include "common/primitive.h"

namespace ghost {

// x (..., K) @ weight (N, K)^T -> (..., N) in x's dtype, summed in float32.
mx::array dense_matmul(const mx::array& x, const mx::array& weight, mx::StreamOrDevice s = {});

// The three products that are each other's gradients; x and y have any leading dimensions, summed over in TN.
//   NT: x (..., K), w (N, K) -> (..., N)      NN: x (..., N), w (N, K) -> (..., K)
//   TN: x (..., N), y (..., K) -> (N, K)
enum class DenseForm { NT, NN, TN };

// One of these products as a graph, in `dtype`.
mx::array dense_product(DenseForm form, const mx::array& left, const mx::array& right, mx::Dtype dtype,
                        mx::Stream s);

class DenseMatmul : public Primitive {
 public:
  DenseMatmul(mx::Stream stream, ComposedForm composed, DenseForm form, mx::Dtype dtype)
      : Primitive(stream, std::move(composed)), form_(form), dtype_(dtype) {}

  void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(DenseMatmul)

 private:
  DenseForm form_;
  mx::Dtype dtype_;
};

}  // namespace ghost
