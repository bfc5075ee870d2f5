#pragma once

#include "codebook_matmul/codebook_matmul.h"

// The operators of this family from MLX's own operations.
namespace ghost::codebook_composed {

// (N, K) float32 from codes and a float32 codebook; differentiable in the codebook.
mx::array decode(const mx::array& codes, const mx::array& codebook, mx::Stream s);
// A float32 codebook rounded to float16, in float32; gradients pass unrounded, for they could overflow
// float16.
mx::array half_levels(const mx::array& codebook, mx::Stream s);
mx::array bucket_sum(const mx::array& dw, const mx::array& codes, int groups, mx::Stream s);

// Each takes the inputs of the primitive of its name.
ComposedForm matmul(bool transpose, Activation activation, mx::Stream s);
ComposedForm gradient(mx::Stream s);
ComposedForm latent(bool half_levels, mx::Stream s);
ComposedForm latent_gradient(CodebookMatmulLatentGrad::Wanted wanted, bool half_levels, mx::Stream s);
ComposedForm assign(mx::Stream s);
ComposedForm dequantize(mx::Dtype dtype, mx::Stream s);
ComposedForm bucket_sums(int groups, mx::Stream s);

}  // namespace ghost::codebook_composed
