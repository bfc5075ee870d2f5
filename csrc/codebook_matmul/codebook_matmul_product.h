#pragma once

#include "codebook_matmul/codebook_matmul.h"
#include "common/coded_matrix.h"

namespace ghost {

// y = x W^T (transpose) or x W on the CPU, for row-major x and y; runs inside an evaluation task.
void multiply_codes(const mx::array& x, const CodedMatrix& w, bool transpose, Activation activation,
                    mx::array& y);

// The same for float32 rows: y (rows, w.rows) = x (rows, w.columns) W^T.
void multiply_codes(const float* x, int64_t rows, const CodedMatrix& w, float* y,
                    Activation activation = Activation::float32);

// The step that n values are rounded to multiples of in int8 products; NaN if one is not finite.
float int8_step(const float* x, int64_t n);

}  // namespace ghost
