#pragma once

#include <functional>
#include <type_traits>

#include "common/gemm_kernels.h"
#include "common/half.h"

namespace ghost {

// A finished piece of the product: rows [row0, row0 + rows) and columns [column0, column0 + columns) at c.
struct GemmTile {
  int64_t row0;
  int64_t rows;
  int64_t column0;
  int64_t columns;
  const float* c;
  int64_t ldc;
};
// bfloat16 rounds both factors and keeps float32 sums. It is float32 where that is faster: on CPUs without
// instructions for it and for small products.
enum class GemmPrecision { float32, bfloat16 };

// True where a bfloat16 product of these sizes does round.
bool gemm_rounds(int64_t rows, int64_t columns, int64_t depth);

using GemmEpilogue = std::function<void(const GemmTile&)>;

// Depth that is summed in one go; longer sums need somewhere to keep the partial ones.
inline constexpr int64_t kGemmDepth = 4096;
// Tiles begin at multiples of this column.
inline constexpr int64_t kGemmColumnStep = 128;

// C (a.outer, b.outer) = A B^T for operands with `depth` summed indices. Either c is the row-major float32
// result, or it is null and the epilogue gets the only copy of every tile, and then again the further
// summands of each tile if depth is over kGemmDepth. With c, the epilogue runs once per finished tile.
// Epilogues run on several threads, one tile each. The partition and the order of every sum depend on the
// shapes and the processor, not on the number of threads.
void gemm(GemmOperand a, GemmOperand b, int64_t depth, float* c, const GemmEpilogue& epilogue,
          GemmPrecision precision = GemmPrecision::float32);

// The same with the result stored in the element type of an operator.
void gemm(const GemmOperand& a, const GemmOperand& b, int64_t depth, float* c,
          GemmPrecision precision = GemmPrecision::float32);
void gemm(const GemmOperand& a, const GemmOperand& b, int64_t depth, float16* c,
          GemmPrecision precision = GemmPrecision::float32);
void gemm(const GemmOperand& a, const GemmOperand& b, int64_t depth, bfloat16* c,
          GemmPrecision precision = GemmPrecision::float32);

void convert(const float* from, float* to, int64_t n);
void convert(const float* from, float16* to, int64_t n);
void convert(const float* from, bfloat16* to, int64_t n);
void convert(const float16* from, float* to, int64_t n);
void convert(const bfloat16* from, float* to, int64_t n);

template <class T>
constexpr GemmOperand::Type gemm_type() {
  if constexpr (std::is_same_v<T, float>) {
    return GemmOperand::Type::f32;
  } else if constexpr (std::is_same_v<T, float16>) {
    return GemmOperand::Type::f16;
  } else {
    return GemmOperand::Type::bf16;
  }
}

// A row-major (rows, columns) matrix whose columns are summed over, or whose rows are.
template <class T>
GemmOperand sum_columns(const T* data, int64_t rows, int64_t columns) {
  return {gemm_type<T>(), data, rows, columns, 1};
}
template <class T>
GemmOperand sum_rows(const T* data, int64_t rows, int64_t columns) {
  static_cast<void>(rows);
  return {gemm_type<T>(), data, columns, 1, columns};
}
inline GemmOperand sum_columns(const CodedMatrix& w) {
  return {GemmOperand::Type::codes, nullptr, w.rows, 0, 0, w, false};
}
inline GemmOperand sum_rows(const CodedMatrix& w) {
  return {GemmOperand::Type::codes, nullptr, w.columns, 0, 0, w, true};
}

}  // namespace ghost
