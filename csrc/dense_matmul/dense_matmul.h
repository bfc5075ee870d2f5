#pragma once

#include <string>

#include "common/activation.h"
#include "common/primitive.h"

namespace ghost {

// x (..., K) @ weight (N, K)^T -> (..., N) in x's dtype, summed in float32. A weight of more dimensions,
// (..., N, K), makes one product for each of its leading indices, which x (..., M, K) must share.
mx::array dense_matmul(const mx::array& x, const mx::array& weight, const std::string& activation = "float32",
                       mx::StreamOrDevice s = {});

// The three products that are each other's gradients; x and y have any leading dimensions, summed over in TN.
//   NT: x (..., K), w (N, K) -> (..., N)      NN: x (..., N), w (N, K) -> (..., K)
//   TN: x (..., N), y (..., K) -> (N, K)
enum class DenseForm { NT, NN, TN };

// Batched products keep all leading dimensions of both operands, which are equal, and work on the last two.
struct DenseOptions {
  DenseForm form;
  bool batched;
  mx::Dtype dtype;  // of the result
  Activation activation = Activation::float32;
  bool operator==(const DenseOptions&) const = default;
};

// One of these products as a graph.
mx::array dense_product(DenseOptions options, const mx::array& left, const mx::array& right, mx::Stream s);

class DenseMatmul : public Primitive {
 public:
  DenseMatmul(mx::Stream stream, ComposedForm composed, DenseOptions options)
      : Primitive(stream, std::move(composed)), options_(options) {}

  GHOST_EVAL_CPU
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(DenseMatmul)

 private:
  DenseOptions options_;
};

}  // namespace ghost
