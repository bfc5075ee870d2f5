#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <type_traits>
#include <vector>

#include "codebook_matmul/codebook_matmul_kernels.h"
#include "codebook_matmul/codebook_matmul_product.h"
#include "common/dispatch.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "common/scratch.h"

namespace ghost {
namespace {

// Where kernels that decode in registers stop paying and packed panels begin, in rows of x, for weights with
// enough columns to hide the sums across a vector (measured on AVX-512).
constexpr int64_t kDotRows = 64;
constexpr int64_t kDotRowsNarrow = 8;
constexpr int64_t kWide = 512;
constexpr int64_t kAccumulateRows = 32;
// Products of at most this many multiply-adds stay on the calling thread: waking another takes longer.
constexpr int64_t kSerialWork = 1 << 21;
constexpr int64_t kTasksWanted = 16;
constexpr int64_t kTaskRows = 64;  // weight rows whose codes stay in the second-level cache

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }

void split(int64_t n, int64_t each, int64_t work, const std::function<void(int64_t, int64_t)>& task) {
  const auto one = [&](int64_t i) { task(i * each, std::min((i + 1) * each, n)); };
  const int64_t tasks = ceil_div(n, each);
  if (work > kSerialWork) return parallel_for(tasks, one);
  for (int64_t i = 0; i < tasks; ++i) one(i);
}

struct Problem {
  const CodedMatrix& w;
  int64_t rows;  // of x
  bool transpose;

  int64_t depth() const { return transpose ? w.columns : w.rows; }
  int64_t outputs() const { return transpose ? w.rows : w.columns; }
  int64_t work() const { return rows * w.rows * w.columns; }
  // Few enough rows to decode in registers.
  bool small() const {
    if (!transpose) return rows <= kAccumulateRows;
    return rows <= (w.columns >= kWide ? kDotRows : kDotRowsNarrow);
  }
};

void run_dot(const Problem& p, CodebookDot dot, const PreparedRows& x, float* y) {
  // As many rows as keep their codes close while all of x passes, but enough tasks to share.
  const int64_t each = std::clamp<int64_t>(p.w.rows / kTasksWanted / 4 * 4, 4, kTaskRows);
  split(p.w.rows, each, p.work(), [&](int64_t n0, int64_t n1) { dot(p.w, x, n0, n1, y, p.w.rows); });
}

int64_t padded(const Problem& p) { return round_up(p.w.columns, codebook_dot_kernels().block); }

void dot_float32(const Problem& p, const float* x, float* y) {
  const auto& kernels = codebook_dot_kernels();
  const int64_t stride = padded(p);
  float* prepared = scratch(Scratch::prepared, static_cast<size_t>(p.rows * stride));
  for (int64_t m = 0; m < p.rows; ++m)
    kernels.prepare(x + m * p.w.columns, p.w.columns, prepared + m * stride);
  run_dot(p, kernels.dot, {prepared, stride, p.rows, nullptr, nullptr}, y);
}

void dot_bfloat16(const Problem& p, const float* x, float* y) {
  const auto& kernels = codebook_reduced_kernels();
  const int64_t stride = padded(p);
  auto* prepared =
      reinterpret_cast<uint16_t*>(scratch(Scratch::prepared, static_cast<size_t>(p.rows * stride / 2)));
  for (int64_t m = 0; m < p.rows; ++m) {
    kernels.prepare_bfloat16(x + m * p.w.columns, p.w.columns, prepared + m * stride);
  }
  run_dot(p, kernels.dot_bfloat16, {prepared, stride, p.rows, nullptr, nullptr}, y);
}

float step_of(const float* x, int64_t n) {
  float largest = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    if (!std::isfinite(x[i]))
      return std::numeric_limits<float>::quiet_NaN();  // and so will the row's results be
    largest = std::max(largest, std::abs(x[i]));
  }
  return largest / 127.0f;
}

void dot_int8(const Problem& p, const float* x, float* y) {
  const auto& kernels = codebook_reduced_kernels();
  const int64_t stride = padded(p);
  auto* prepared =
      reinterpret_cast<int8_t*>(scratch(Scratch::prepared, static_cast<size_t>(p.rows * stride / 4)));
  std::vector<float> steps(static_cast<size_t>(p.rows));
  std::vector<int32_t> sums(static_cast<size_t>(p.rows));
  for (int64_t m = 0; m < p.rows; ++m) {
    const auto i = static_cast<size_t>(m);
    const float* row = x + m * p.w.columns;
    steps[i] = step_of(row, p.w.columns);
    sums[i] = kernels.prepare_int8(row, steps[i], p.w.columns, prepared + m * stride);
  }
  run_dot(p, kernels.dot_int8, {prepared, stride, p.rows, steps.data(), sums.data()}, y);
}

void accumulate(const Problem& p, const float* x, float* y) {
  const auto& kernels = codebook_dot_kernels();
  split(ceil_div(p.w.columns, kernels.block), 1, p.work(), [&](int64_t block, int64_t) {
    kernels.accumulate(p.w, x, static_cast<int>(p.rows), block, y, p.w.columns);
  });
}

// Rounds n values to what a reduced mode keeps of them.
void round_to_mode(const float* x, int64_t n, Activation activation, float* rounded) {
  if (activation == Activation::bfloat16) {
    for (int64_t i = 0; i < n; ++i) rounded[i] = to_float(to_bfloat16(x[i]));
    return;
  }
  const float step = step_of(x, n);
  const float divisor = step > 0.0f ? step : 1.0f;
  for (int64_t i = 0; i < n; ++i) rounded[i] = std::nearbyint(x[i] / divisor) * step;
}

// The float32 products that decode in registers.
void small_product(const Problem& p, const float* x, float* y) {
  p.transpose ? dot_float32(p, x, y) : accumulate(p, x, y);
}

// The product in a reduced mode, for float32 x and y.
void reduced_product(const Problem& p, Activation activation, const float* x, float* y) {
  const auto& kernels = codebook_reduced_kernels();
  // 127 * 127 * columns has to fit 32 bits.
  const bool fits = activation != Activation::int8 || p.w.columns <= (1 << 17);
  if (p.transpose && p.w.groups() == 1 && kernels.dot_int8 && fits) {
    return activation == Activation::int8 ? dot_int8(p, x, y) : dot_bfloat16(p, x, y);
  }
  std::vector<float> rounded(static_cast<size_t>(p.rows * p.depth()));
  for (int64_t m = 0; m < p.rows; ++m) {
    round_to_mode(x + m * p.depth(), p.depth(), activation, rounded.data() + m * p.depth());
  }
  const int64_t codebooks = p.w.row_stride == 0 ? 1 : p.w.rows * p.w.groups();
  std::vector<float> levels(static_cast<size_t>(4 * codebooks));
  for (int64_t i = 0; i < 4 * codebooks; i += 4)
    round_to_mode(p.w.codebook + i, 4, activation, levels.data() + i);
  CodedMatrix w = p.w;
  w.codebook = levels.data();
  const Problem exact{w, p.rows, p.transpose};
  if (exact.small()) return small_product(exact, rounded.data(), y);
  gemm(sum_columns(rounded.data(), p.rows, p.depth()), p.transpose ? sum_columns(w) : sum_rows(w), p.depth(),
       y);
}

// x or y as float32, through a buffer when the operator has another type.
template <class T>
const float* as_float(const T* x, int64_t n, std::vector<float>& buffer) {
  if constexpr (std::is_same_v<T, float>) {
    static_cast<void>(n);
    static_cast<void>(buffer);
    return x;
  } else {
    buffer.resize(static_cast<size_t>(n));
    convert(x, buffer.data(), n);
    return buffer.data();
  }
}

template <class T>
void multiply(const Problem& p, Activation activation, const T* x, T* y) {
  if (p.rows == 0 || p.outputs() == 0) return;
  if (p.depth() == 0 || (activation == Activation::float32 && !p.small())) {
    return gemm(sum_columns(x, p.rows, p.depth()), p.transpose ? sum_columns(p.w) : sum_rows(p.w), p.depth(),
                y);
  }
  std::vector<float> x_buffer;
  std::vector<float> y_buffer;
  const float* x32 = as_float(x, p.rows * p.depth(), x_buffer);
  const int64_t outputs = p.rows * p.outputs();
  float* y32 = nullptr;
  if constexpr (std::is_same_v<T, float>) {
    y32 = y;
  } else {
    y_buffer.resize(static_cast<size_t>(outputs));
    y32 = y_buffer.data();
  }
  if (activation == Activation::float32) {
    small_product(p, x32, y32);
  } else {
    reduced_product(p, activation, x32, y32);
  }
  if constexpr (!std::is_same_v<T, float>) convert(y32, y, outputs);
}

}  // namespace

void multiply_codes(const mx::array& x, const CodedMatrix& w, bool transpose, Activation activation,
                    mx::array& y) {
  const Problem p{w, leading_size(x), transpose};
  dispatch_dtype(x.dtype(), [&]<class T>() { multiply(p, activation, in_ptr<T>(x), out_ptr<T>(y)); });
}

}  // namespace ghost
