#pragma once

#include <initializer_list>
#include <ostream>
#include <sstream>
#include <stdexcept>
#include <string>

#include "mlx/mlx.h"

namespace ghost {

namespace mx = mlx::core;

// Throws std::invalid_argument (a ValueError in Python) saying "[op] what was wrong, what was given, what is
// allowed".
template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream message;
  message << "[" << op << "] ";
  (message << ... << parts);
  throw std::invalid_argument(message.str());
}

template <class... Parts>
void require(bool condition, const char* op, const Parts&... parts) {
  if (!condition) fail(op, parts...);
}

// A shape in a message: (2, 3, 5). It is written only when the message is, for most checks hold.
struct ShapeText {
  const mx::Shape& shape;
};
std::ostream& operator<<(std::ostream& out, const ShapeText& text);
inline ShapeText shape_text(const mx::Shape& shape) { return {shape}; }

// One of float32, float16 and bfloat16, the element types of every operator.
bool is_io_dtype(mx::Dtype dtype);
void require_io_dtype(const char* op, const char* name, const mx::array& x);

// Compares x's shape with the expected one; -1 in `expected` matches any size. `meaning` names the
// dimensions.
void require_shape(const char* op, const char* name, const mx::array& x, const mx::Shape& expected,
                   const char* meaning);

// Integer indices as int32; what does not fit becomes -1, which no operator takes for an index.
mx::array as_index(const mx::array& indices, mx::Stream s);

// A (batch + 1,) int32 vector of sequence boundaries into `total` rows. Values cannot be checked without
// evaluating them, so kernels clamp: see read_cu_seqlens.
void require_cu_seqlens(const char* op, const mx::array& cu_seqlens);

}  // namespace ghost
