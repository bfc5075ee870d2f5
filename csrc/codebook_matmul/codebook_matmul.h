#pragma once

#include <string>

#include "common/activation.h"
#include "common/primitive.h"

namespace ghost {

// y = x W^T (transpose) or x W, W (N, K) given by two-bit codes (N, K / 16) uint32, 16 to a word, first in
// the low bits, and a codebook (4,), (N, 1, 4) or (N, K / group_size, 4): W[n, k] = codebook[n, group of k,
// code].
mx::array codebook_matmul(const mx::array& x, const mx::array& codes, const mx::array& codebook,
                          bool transpose, const std::string& activation, mx::StreamOrDevice s = {});

// The same with codes = codebook_assign(weight, codebook) inside, and straight-through gradients: the
// weight's is that of the decoded weight, with no mask, the codebook's its sums over equal codes. float32 or
// bfloat16 products, in both passes. With half_levels the codebook is rounded to float16 before all else, and
// its gradient passes unrounded.
mx::array codebook_matmul_latent(const mx::array& x, const mx::array& weight, const mx::array& codebook,
                                 const std::string& activation, bool half_levels, mx::StreamOrDevice s = {});

// Codes of the nearest levels of w (N, K); the first of levels equally near, and level 0 for NaN.
mx::array codebook_assign(const mx::array& w, const mx::array& codebook, mx::StreamOrDevice s = {});

// The (N, K) weight.
mx::array codebook_dequantize(const mx::array& codes, const mx::array& codebook, mx::Dtype dtype,
                              mx::StreamOrDevice s = {});

// sums[n, g, c] of dw (N, K) where the code is c: the gradient of a codebook (N, groups, 4).
mx::array bucket_sum(const mx::array& dw, const mx::array& codes, int groups, mx::StreamOrDevice s = {});

// Inputs x, codes, codebook.
class CodebookMatmul : public Primitive {
 public:
  CodebookMatmul(mx::Stream stream, ComposedForm composed, bool transpose, Activation activation)
      : Primitive(stream, std::move(composed)), transpose_(transpose), activation_(activation) {}

  GHOST_EVAL
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(CodebookMatmul)

 private:
  bool transpose_;
  Activation activation_;
};

// Gradient of the codebook. Inputs left (..., N), right (..., K), codes, codebook: the bucket sums of
// left^T right, shaped like the codebook.
class CodebookGrad : public Primitive {
 public:
  CodebookGrad(mx::Stream stream, ComposedForm composed) : Primitive(stream, std::move(composed)) {}

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(CodebookGrad)
};

// Inputs x, weight (float32), codebook (float32); outputs y and the codes, for the gradient. half_levels is
// for CPUs: elsewhere the codebook comes rounded.
class CodebookMatmulLatent : public Primitive {
 public:
  CodebookMatmulLatent(mx::Stream stream, ComposedForm composed, Activation activation, bool half_levels)
      : Primitive(stream, std::move(composed)), activation_(activation), half_levels_(half_levels) {}

  GHOST_EVAL
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(CodebookMatmulLatent)

 private:
  Activation activation_;
  bool half_levels_;
};

// Inputs x, codes, codebook, dy; outputs those asked for of dx, dweight, dcodebook.
class CodebookMatmulLatentGrad : public Primitive {
 public:
  struct Wanted {
    bool x = false;
    bool weight = false;
    bool codebook = false;
    bool operator==(const Wanted&) const = default;
  };
  CodebookMatmulLatentGrad(mx::Stream stream, ComposedForm composed, Wanted wanted, Activation activation,
                           bool half_levels)
      : Primitive(stream, std::move(composed)),
        wanted_(wanted),
        activation_(activation),
        half_levels_(half_levels) {}

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(CodebookMatmulLatentGrad)

 private:
  Wanted wanted_;
  Activation activation_;
  bool half_levels_;
};

// Inputs w, codebook, both float32; output codes.
class CodebookAssign : public Primitive {
 public:
  CodebookAssign(mx::Stream stream, ComposedForm composed) : Primitive(stream, std::move(composed)) {}

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(CodebookAssign)
};

// Inputs codes, codebook (float32); output the weight in a dtype.
class CodebookDequantize : public Primitive {
 public:
  CodebookDequantize(mx::Stream stream, ComposedForm composed, mx::Dtype dtype)
      : Primitive(stream, std::move(composed)), dtype_(dtype) {}

  GHOST_EVAL
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(CodebookDequantize)

 private:
  mx::Dtype dtype_;
};

// Inputs dw (float32), codes; output sums (N, groups, 4).
class BucketSum : public Primitive {
 public:
  BucketSum(mx::Stream stream, ComposedForm composed, int groups)
      : Primitive(stream, std::move(composed)), groups_(groups) {}

  GHOST_EVAL
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(BucketSum)

 private:
  int groups_;
};

}  // namespace ghost
