#include <algorithm>
#include <bit>
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
#include "common/rounding.h"
#include "common/scratch.h"

namespace ghost {

float int8_step(const float* x, int64_t n) {
  // Magnitudes of floats are ordered as their bits are; what is not finite comes last.
  int32_t largest = 0;
  if (const auto kernel = codebook_panel_kernels().largest_bits) {
    largest = kernel(x, n);
  } else {
    for (int64_t i = 0; i < n; ++i) {
      largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
    }
  }
  if (largest >= 0x7f800000)
    return std::numeric_limits<float>::quiet_NaN();  // and so will the row's results be
  return std::bit_cast<float>(largest) / 127.0f;
}

namespace {

// Rows of x up to which kernels that decode in registers pay, before packed panels do: more for weights with
// more columns, which hide the sums across a vector (measured on AVX-512).
constexpr int64_t kDotRows[] = {8, 32, 64};
constexpr int64_t kDotColumns[] = {256, 512};
constexpr int64_t kAccumulateRows = 32;
constexpr int64_t kPanelRows = 32;        // of x from which decoding reduced panels once pays
constexpr int64_t kPanelBytes = 1 << 15;  // of a panel that stays in the first-level cache
constexpr int64_t kPanelsTogether = 4;    // panels of a task that share a block of x from the second level
constexpr int64_t kPanelBlock = 56;       // rows of x multiplied by all of a task's panels in turn
constexpr int64_t kRoundedByTile = 1025;  // rows of x from which the task that multiplies them rounds them
constexpr int64_t kPrepareRows = 8;
// Float32 multiply-adds from which another thread is asked to help: waking it takes as long as some of them.
constexpr int64_t kSharedWork = 1 << 20;
constexpr int64_t kTasksWanted = 16;
constexpr int64_t kTaskRows = 64;  // weight rows whose codes stay in the second-level cache

void split(int64_t n, int64_t each, int64_t work, const std::function<void(int64_t, int64_t)>& task) {
  parallel_for_if(work >= kSharedWork, ceil_div(n, each),
                  [&](int64_t i) { task(i * each, std::min((i + 1) * each, n)); });
}

struct Problem {
  const CodedMatrix& w;
  int64_t rows;  // of x
  bool transpose;

  int64_t depth() const { return transpose ? w.columns : w.rows; }
  int64_t outputs() const { return transpose ? w.rows : w.columns; }
  // In the time of float32 multiply-adds.
  int64_t work(Activation activation = Activation::float32) const {
    const int64_t speed = activation == Activation::int8 ? 4 : activation == Activation::bfloat16 ? 2 : 1;
    return rows * w.rows * w.columns / speed;
  }
  // Few enough rows to decode in registers.
  bool small() const {
    if (!transpose) return rows <= kAccumulateRows;
    return rows <= kDotRows[(w.columns >= kDotColumns[0]) + (w.columns >= kDotColumns[1])];
  }
};

void run_dot(const Problem& p, Activation activation, CodebookDot dot, const PreparedRows& x, float* y) {
  // As many rows as keep their codes close while all of x passes, but enough tasks to share.
  const int64_t each = std::clamp<int64_t>(p.w.rows / kTasksWanted / 4 * 4, 4, kTaskRows);
  split(p.w.rows, each, p.work(activation),
        [&](int64_t n0, int64_t n1) { dot(p.w, x, n0, n1, y, p.w.rows); });
}

int64_t padded(const Problem& p) { return round_up(p.w.columns, codebook_dot_kernels().block); }

void dot_float32(const Problem& p, const float* x, float* y) {
  const auto& kernels = codebook_dot_kernels();
  const int64_t stride = padded(p);
  float* prepared = scratch(Scratch::prepared, static_cast<size_t>(p.rows * stride));
  for (int64_t m = 0; m < p.rows; ++m)
    kernels.prepare(x + m * p.w.columns, p.w.columns, prepared + m * stride);
  run_dot(p, Activation::float32, kernels.dot, {prepared, stride, p.rows, nullptr, nullptr}, y);
}

void dot_bfloat16(const Problem& p, const float* x, float* y) {
  const auto& kernels = codebook_reduced_kernels();
  const int64_t stride = padded(p);
  auto* prepared =
      reinterpret_cast<uint16_t*>(scratch(Scratch::prepared, static_cast<size_t>(p.rows * stride / 2)));
  for (int64_t m = 0; m < p.rows; ++m) {
    kernels.prepare_bfloat16(x + m * p.w.columns, p.w.columns, prepared + m * stride);
  }
  run_dot(p, Activation::bfloat16, kernels.dot_bfloat16, {prepared, stride, p.rows, nullptr, nullptr}, y);
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
    steps[i] = int8_step(row, p.w.columns);
    sums[i] = kernels.prepare_int8(row, steps[i], p.w.columns, prepared + m * stride);
  }
  run_dot(p, Activation::int8, kernels.dot_int8, {prepared, stride, p.rows, steps.data(), sums.data()}, y);
}

// Many rows of x in a reduced mode: panels of weights are decoded once and multiplied by all of x.
void multiply_panels(const Problem& p, Activation activation, const float* x, float* y) {
  const auto& kernels = codebook_panel_kernels();
  const bool int8 = activation == Activation::int8;
  const CodebookPanelMode& mode = int8 ? kernels.int8 : kernels.bfloat16;
  const int64_t size = int8 ? 1 : 2;
  const int64_t columns = p.w.columns;
  // x is stored a block of depth after the other, so that its rows do not fall on the same cache sets.
  const int64_t block = kPanelBytes / kCodebookPanelRows / size;
  auto* prepared = reinterpret_cast<char*>(
      scratch(Scratch::prepared, static_cast<size_t>(p.rows * columns * size + 3) / 4));
  const auto block_of = [&](int64_t k) { return prepared + k * p.rows * size; };
  const auto width = [&](int64_t k) { return std::min(block, columns - k); };
  std::vector<float> steps(static_cast<size_t>(p.rows));
  std::vector<int32_t> sums(static_cast<size_t>(p.rows), 0);
  split(p.rows, kPrepareRows, p.work(activation), [&](int64_t m0, int64_t m1) {
    for (int64_t m = m0; m < m1; ++m) {
      const auto i = static_cast<size_t>(m);
      const float* row = x + m * columns;
      if (int8) steps[i] = int8_step(row, columns);
      for (int64_t k = 0; k < columns; k += block) {
        char* to = block_of(k) + m * width(k) * size;
        if (int8) {
          sums[i] += kernels.prepare_int8(row + k, steps[i], width(k), reinterpret_cast<int8_t*>(to));
        } else {
          kernels.prepare_bfloat16(row + k, width(k), reinterpret_cast<uint16_t*>(to));
        }
      }
    }
  });
  const int64_t panels = ceil_div(p.w.rows, kCodebookPanelRows);
  const int64_t each = std::clamp<int64_t>(panels / kTasksWanted, 1, kPanelsTogether);
  const bool whole = columns <= block;  // a panel holds all of the depth
  split(panels, each, p.work(activation), [&](int64_t first, int64_t last) {
    constexpr auto panel_floats = static_cast<int64_t>(kPanelBytes / sizeof(float));
    const int64_t results = (whole ? kPanelBlock : p.rows) * kCodebookPanelRows;
    float* c = scratch(Scratch::gemm_tile, static_cast<size_t>((whole ? 1 : each) * results));
    float* packed = scratch(Scratch::gemm_b, static_cast<size_t>((whole ? each : 1) * panel_floats));
    float scales[kPanelsTogether][kCodebookPanelRows];
    const auto row0 = [](int64_t i) { return i * kCodebookPanelRows; };
    const auto count = [&](int64_t i) {
      return static_cast<int>(std::min<int64_t>(kCodebookPanelRows, p.w.rows - row0(i)));
    };
    for (int64_t i = first; mode.scales && i < last; ++i)
      mode.scales(p.w, row0(i), count(i), scales[i - first]);
    const auto panel = [&](int64_t i) { return packed + (whole ? (i - first) * panel_floats : 0); };
    const auto pack = [&](int64_t i, int64_t k) {
      mode.pack(p.w, row0(i), count(i), k / 16, (k + width(k)) / 16, panel(i));
    };
    // Rows [m0, m1) times depths from k on; results leave for y while they are in the first-level cache.
    const auto multiply = [&](int64_t i, int64_t k, int64_t m0, int64_t m1) {
      float* to = whole ? c : c + (i - first) * results + m0 * kCodebookPanelRows;
      mode.multiply(width(k) / 16, block_of(k) + m0 * width(k) * size, width(k) * size, m1 - m0, panel(i), to,
                    k > 0);
      if (k + block < columns) return;
      const PreparedRows rows{nullptr, 0, m1 - m0, steps.data() + m0, sums.data() + m0};
      mode.finish(scales[i - first], count(i), to, rows, y + m0 * p.w.rows + row0(i), p.w.rows);
    };
    const auto each_block = [&](auto&& task) {
      for (int64_t m = 0; m < p.rows; m += kPanelBlock) task(m, std::min(m + kPanelBlock, p.rows));
    };
    if (whole) {
      for (int64_t i = first; i < last; ++i) pack(i, 0);
      return each_block([&](int64_t m0, int64_t m1) {
        for (int64_t i = first; i < last; ++i) multiply(i, 0, m0, m1);
      });
    }
    for (int64_t k = 0; k < columns; k += block) {
      for (int64_t i = first; i < last; ++i) {
        pack(i, k);
        each_block([&](int64_t m0, int64_t m1) { multiply(i, k, m0, m1); });
      }
    }
  });
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
    constexpr int64_t kAtOnce = 256;
    bfloat16 some[kAtOnce];
    for (int64_t i = 0; i < n; i += kAtOnce) {
      const int64_t count = std::min(kAtOnce, n - i);
      convert(x + i, some, count);
      convert(some, rounded + i, count);
    }
    return;
  }
  const float step = int8_step(x, n);
  const float divisor = step > 0.0f ? step : 1.0f;
  for (int64_t i = 0; i < n; ++i) rounded[i] = std::nearbyint(x[i] / divisor) * step;
}

// The float32 products that decode in registers.
void small_product(const Problem& p, const float* x, float* y) {
  p.transpose ? dot_float32(p, x, y) : accumulate(p, x, y);
}

// The product in a reduced mode, for float32 x and y.
void reduced_product(const Problem& p, Activation activation, const float* x, float* y) {
  const bool int8 = activation == Activation::int8;
  const auto& panels = codebook_panel_kernels();
  const auto& dots = codebook_reduced_kernels();
  // 127 * 127 * columns has to fit 32 bits.
  const bool fits = !int8 || p.w.columns <= (1 << 17);
  const bool by_row = p.w.groups() == 1;
  if (!int8 && p.transpose && p.rows >= kRoundedByTile && gemm_rounds(p.rows, p.w.rows, p.w.columns)) {
    return gemm(sum_columns(x, p.rows, p.depth()), sum_columns(p.w), p.depth(), y, GemmPrecision::bfloat16);
  }
  if (p.transpose && p.rows >= kPanelRows && (int8 ? panels.int8 : panels.bfloat16).multiply && fits &&
      (by_row || !int8)) {
    return multiply_panels(p, activation, x, y);
  }
  if (p.transpose && by_row && (int8 ? dots.dot_int8 : dots.dot_bfloat16) && fits) {
    return int8 ? dot_int8(p, x, y) : dot_bfloat16(p, x, y);
  }
  std::vector<float> rounded(static_cast<size_t>(p.rows * p.depth()));
  for (int64_t m = 0; m < p.rows; ++m) {
    round_to_mode(x + m * p.depth(), p.depth(), activation, rounded.data() + m * p.depth());
  }
  const int64_t codebooks = p.w.row_stride == 0 ? 1 : p.w.rows * p.w.groups();
  std::vector<float> levels(static_cast<size_t>(4 * codebooks));
  // Each codebook has its own step in int8.
  const int64_t together = activation == Activation::int8 ? 4 : 4 * codebooks;
  for (int64_t i = 0; i < 4 * codebooks; i += together)
    round_to_mode(p.w.codebook + i, together, activation, levels.data() + i);
  CodedMatrix w = p.w;
  w.codebook = levels.data();
  const Problem exact{w, p.rows, p.transpose};
  if (exact.small()) return small_product(exact, rounded.data(), y);
  // What int8 rounds to has no exact bfloat16.
  gemm(sum_columns(rounded.data(), p.rows, p.depth()), p.transpose ? sum_columns(w) : sum_rows(w), p.depth(),
       y, int8 ? GemmPrecision::float32 : GemmPrecision::bfloat16);
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

void multiply_codes(const float* x, int64_t rows, const CodedMatrix& w, float* y, Activation activation) {
  multiply({w, rows, true}, activation, x, y);
}

}  // namespace ghost
