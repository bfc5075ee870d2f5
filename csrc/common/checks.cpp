#include "common/checks.h"

#include <limits>

namespace ghost {

std::ostream& operator<<(std::ostream& out, const ShapeText& text) {
  const mx::Shape& shape = text.shape;
  out << "(";
  for (size_t i = 0; i < shape.size(); ++i) out << (i ? ", " : "") << shape[i];
  return out << (shape.size() == 1 ? ",)" : ")");
}

bool is_io_dtype(mx::Dtype dtype) {
  return dtype == mx::float32 || dtype == mx::float16 || dtype == mx::bfloat16;
}

void require_io_dtype(const char* op, const char* name, const mx::array& x) {
  require(is_io_dtype(x.dtype()), op, name, " has the wrong dtype, given ", x.dtype(),
          ", allowed: float32, float16, bfloat16.");
}

void require_shape(const char* op, const char* name, const mx::array& x, const mx::Shape& expected,
                   const char* meaning) {
  bool matches = x.ndim() == expected.size();
  for (size_t i = 0; matches && i < expected.size(); ++i) {
    matches = expected[i] < 0 || x.shape(static_cast<int>(i)) == expected[i];
  }
  if (matches) return;
  std::ostringstream sizes;
  for (size_t i = 0; i < expected.size(); ++i) {
    sizes << (i ? ", " : "");
    expected[i] < 0 ? sizes << "any" : sizes << expected[i];
  }
  fail(op, name, " has the wrong shape, given ", shape_text(x.shape()), ", allowed: ", meaning, " = (",
       sizes.str(), expected.size() == 1 ? ",)." : ").");
}

mx::array as_index(const mx::array& indices, mx::Stream s) {
  if (indices.dtype().size() < 8) return mx::astype(indices, mx::int32, s);
  const auto largest = mx::array(std::numeric_limits<int32_t>::max(), indices.dtype());
  const auto smallest = mx::array(0, indices.dtype());
  const auto fits =
      mx::logical_and(mx::greater_equal(indices, smallest, s), mx::less_equal(indices, largest, s), s);
  return mx::where(fits, mx::astype(indices, mx::int32, s), mx::array(-1), s);
}

void require_cu_seqlens(const char* op, const mx::array& cu_seqlens) {
  require(cu_seqlens.dtype() == mx::int32, op, "cu_seqlens has the wrong dtype, given ", cu_seqlens.dtype(),
          ", allowed: int32.");
  require(cu_seqlens.ndim() == 1 && cu_seqlens.size() >= 1, op, "cu_seqlens has the wrong shape, given ",
          shape_text(cu_seqlens.shape()), ", allowed: (batch + 1,).");
}

}  // namespace ghost
