#include <algorithm>
#include <cmath>
#include <vector>

#include "common/gemm_kernels.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "sparse_attention/sparse_attention_kernels.h"
#include "sparse_attention/sparse_attention_rows.h"

namespace ghost {
namespace {

constexpr int64_t kChunk = 128;  // queries of a forward task, which share packed keys
constexpr int64_t kBlock = 32;   // queries whose scores the backward holds at once

// c (rows x columns, ldc) = or += the product of a and packed panels b, over `depth`.
struct Product {
  const GemmKernels& gemm = gemm_kernels();
  int64_t panel = 2 * gemm.width;  // columns of a panel

  // A(i, k) = a[i * a_row + k * a_depth]; panel j of b holds columns j * panel and on, b_panel floats apart.
  void operator()(int64_t rows, int64_t columns, int64_t depth, const float* a, int64_t a_row,
                  int64_t a_depth, const float* b, int64_t b_panel, float* c, int64_t ldc,
                  bool accumulate) const {
    for (int64_t j = 0; j < columns; j += panel) {
      const auto width = static_cast<int>(std::min(panel, columns - j));
      for (int64_t i = 0; i < rows; i += gemm.max_rows) {
        const auto height = static_cast<int>(std::min<int64_t>(gemm.max_rows, rows - i));
        gemm.micro[2 * (height - 1) + 1](depth, a + i * a_row, a_row, a_depth, b + j / panel * b_panel,
                                         c + i * ldc + j, ldc, height, width, accumulate);
      }
    }
  }

  // Packs x (rows, width, ld) so that its rows are the product's columns, summed over the width ...
  void pack_rows(const float* x, int64_t rows, int64_t width, int64_t ld, float* panels) const {
    for (int64_t r = 0; r < rows; r += panel) {
      const auto count = static_cast<int>(std::min(panel, rows - r));
      const GemmOperand operand{GemmOperand::Type::f32, x, rows, ld, 1};
      gemm.pack(operand, r, count, static_cast<int>(panel), 0, width, panels + r * width);
    }
  }
  // ... or so that its columns are the product's, summed over the rows; panels lie rows * panel apart.
  void pack_columns(const float* x, int64_t rows, int64_t width, int64_t ld, float* panels) const {
    for (int64_t d = 0; d < width; d += panel) {
      const auto count = static_cast<int>(std::min(panel, width - d));
      const GemmOperand operand{GemmOperand::Type::f32, x, width, 1, ld};
      gemm.pack(operand, d, count, static_cast<int>(panel), 0, rows, panels + d * rows);
    }
  }
};

// One sequence and one head of the operands.
struct Head {
  const float* q;  // of the sequence's first row; rows are `dim` apart, as those of k and v
  const float* k;
  const float* v;
  const float* window_k;
  const float* window_v;
  const float* far_k;
  const float* far_v;
  int64_t rows;
  int64_t count;
  int64_t cached;  // far rows of the cache
  int64_t dim;
  int64_t width;  // of the head
  int64_t stride;
  float scale;
  float slope;

  // Far rows that the query in row t sees.
  int64_t far_count(int64_t t) const { return std::max<int64_t>(0, (count + t + 1) / stride - 1); }
  // First row that it sees nearby, negative in the window.
  int64_t first_near(int64_t t) const { return std::max(t + 1 - stride, -count); }

  const float* near_row(const float* rows_of, const float* window, int64_t t) const {
    return t >= 0 ? rows_of + t * dim : window + (stride + t) * dim;
  }
  // Far row m, in this call or before it; null when the cache is shorter than it should be.
  const float* far_row(const float* rows_of, const float* far, int64_t m) const {
    const int64_t t = m * stride + stride - 1 - count;
    if (t >= 0) return rows_of + t * dim;
    return m < cached ? far + m * dim : nullptr;
  }
};

AttentionOperands operands_of(const Arrays& in) {
  const auto data = [&](size_t i) { return in[i].data<float>(); };
  return {data(0),        data(1),        data(2), data(3), data(4), data(5), data(6), in[7].data<int32_t>(),
          in[5].shape(1), in[0].shape(-1)};
}

std::vector<Span> spans_of(const SparseAttentionOptions& options, const Arrays& in) {
  return options.ragged ? ragged_spans(in[8].data<int32_t>(), in[8].shape(0) - 1, in[0].shape(0))
                        : equal_spans(in[0].shape(0), in[0].shape(1));
}

class Heads {
 public:
  Heads(const SparseAttentionOptions& options, const AttentionOperands& operands,
        const std::vector<Span>& spans)
      : options_(options), in_(operands), spans_(spans) {}

  const std::vector<Span>& spans() const { return spans_; }
  int64_t dim() const { return in_.dim; }
  int64_t width() const { return in_.dim / options_.num_heads; }

  Head at(int64_t b, int64_t h) const {
    const Span& span = spans_[static_cast<size_t>(b)];
    const int64_t first = span.begin * in_.dim + h * width();
    const int64_t window = b * options_.stride * in_.dim + h * width();
    const int64_t cache = b * in_.far * in_.dim + h * width();
    return {in_.q + first, in_.k + first, in_.v + first, in_.window_k + window, in_.window_v + window,
            in_.far_k + cache, in_.far_v + cache, span.length(),
            // A count that the cache does not bear out would ask for rows that never were.
            std::clamp<int64_t>(in_.count[b], 0, (in_.far + 1) * options_.stride - 1), in_.far, in_.dim,
            width(), options_.stride, 1.0f / std::sqrt(static_cast<float>(width())),
            options_.slope(static_cast<int>(h))};
  }

 private:
  const SparseAttentionOptions& options_;
  const AttentionOperands& in_;
  const std::vector<Span>& spans_;
};

// The keys or values that queries [t0, t1) see, as columns of the score matrix: far rows, padded to whole
// panels, then near rows from first_near(t0) on, padded likewise.
struct Columns {
  int64_t far_count;
  int64_t far;    // padded
  int64_t near0;  // row of the first near column
  int64_t near;   // padded
  int64_t all() const { return far + near; }

  Columns(const Head& head, int64_t t0, int64_t t1, int64_t panel)
      : far_count(head.far_count(t1 - 1)),
        far(round_up(far_count, panel)),
        near0(head.first_near(t0)),
        near(round_up(t1 - near0, panel)) {}

  void gather(const Head& head, const float* rows, const float* window, const float* cache, int64_t t1,
              float* to) const {
    const auto put = [&](int64_t column, const float* from) {
      float* row = to + column * head.width;
      if (from) {
        std::copy(from, from + head.width, row);
      } else {
        std::fill(row, row + head.width, 0.0f);
      }
    };
    for (int64_t m = 0; m < far; ++m) put(m, m < far_count ? head.far_row(rows, cache, m) : nullptr);
    for (int64_t c = 0; c < near; ++c) {
      const int64_t t = near0 + c;
      put(far + c, t < t1 ? head.near_row(rows, window, t) : nullptr);
    }
  }

  // Near columns that rows [r0, r1) see, from a whole panel on.
  std::pair<int64_t, int64_t> span(const Head& head, int64_t r0, int64_t r1, int64_t panel) const {
    const int64_t from = (head.first_near(r0) - near0) / panel * panel;
    return {from, std::min(near, from + round_up(r1 - near0 - from, panel))};
  }
  AttentionRow row(const Head& head, int64_t t, int64_t from, int64_t to, int64_t far_padded) const {
    return {head.far_count(t), far_padded, head.first_near(t) - near0, t - near0 + 1, from, to,
            head.scale,        head.slope};
  }
};

// Hands out parts of a thread's working memory.
class Arena {
 public:
  explicit Arena(int64_t floats) : next_(scratch(Scratch::attention, static_cast<size_t>(floats))) {}
  float* take(int64_t floats) {
    float* mine = next_;
    next_ += round_up(floats, 16);
    return mine;
  }

 private:
  float* next_;
};

void forward(const Head& head, int64_t t0, int64_t t1, float* y, float* logsumexp, int64_t heads) {
  const Product product;
  const auto& kernels = sparse_attention_kernels();
  const int64_t width = head.width;
  const Columns columns(head, t0, t1, product.panel);
  const int64_t all = columns.all();
  const int64_t tile = product.gemm.max_rows;
  const int64_t padded_width = round_up(width, product.panel);
  Arena arena(all * (2 * width + padded_width) + tile * all + 64);
  float* rows = arena.take(all * width);
  float* keys = arena.take(all * width);
  float* values = arena.take(all * padded_width);
  float* scores = arena.take(tile * all);
  columns.gather(head, head.k, head.window_k, head.far_k, t1, rows);
  product.pack_rows(rows, all, width, width, keys);
  columns.gather(head, head.v, head.window_v, head.far_v, t1, rows);
  product.pack_columns(rows, all, width, width, values);

  for (int64_t r0 = t0; r0 < t1; r0 += tile) {
    const int64_t r1 = std::min(t1, r0 + tile);
    const auto [from, to] = columns.span(head, r0, r1, product.panel);
    const int64_t far = round_up(head.far_count(r1 - 1), product.panel);
    const float* q = head.q + r0 * head.dim;
    const int64_t near = columns.far + from;
    product(r1 - r0, far, width, q, head.dim, 1, keys, product.panel * width, scores, all, false);
    product(r1 - r0, to - from, width, q, head.dim, 1, keys + near * width, product.panel * width,
            scores + near, all, false);
    for (int64_t t = r0; t < r1; ++t) {
      float* row = scores + (t - r0) * all;
      float largest = 0.0f;
      float total = 0.0f;
      kernels.softmax(row, row + columns.far, columns.row(head, t, from, to, far), &largest, &total);
      logsumexp[t * heads] = largest + std::log(total);
    }
    float* out = y + r0 * head.dim;
    const int64_t apart = product.panel * all;
    product(r1 - r0, width, to - from, scores + near, all, 1, values + near * product.panel, apart, out,
            head.dim, false);
    if (far) product(r1 - r0, width, far, scores, all, 1, values, apart, out, head.dim, true);
  }
}

// Where the gradients of a sequence's head go; those of the state may be null.
struct HeadGradients {
  float* q;
  float* k;
  float* v;
  float* window_k;
  float* window_v;
  float* far_k;
  float* far_v;
};

// Adds what the columns of one operand gathered to its rows, window and cache, which hold zeros.
void scatter(const Head& head, const Columns& columns, const float* from, float* rows, float* window,
             float* cache) {
  const auto add = [&](float* to, const float* x) {
    for (int64_t d = 0; d < head.width; ++d) to[d] += x[d];
  };
  for (int64_t t = columns.near0; t < head.rows; ++t) {
    const float* x = from + (columns.far + t - columns.near0) * head.width;
    if (t >= 0) {
      add(rows + t * head.dim, x);
    } else if (window) {
      add(window + (head.stride + t) * head.dim, x);
    }
  }
  for (int64_t m = 0; m < columns.far_count; ++m) {
    const int64_t t = m * head.stride + head.stride - 1 - head.count;
    const float* x = from + m * head.width;
    if (t >= 0) {
      add(rows + t * head.dim, x);
    } else if (cache && m < head.cached) {
      add(cache + m * head.dim, x);
    }
  }
}

void backward(const Head& head, const float* y, const float* dy, const float* logsumexp, int64_t heads,
              const HeadGradients& gradients) {
  const Product product;
  const auto& kernels = sparse_attention_kernels();
  const int64_t width = head.width;
  const Columns columns(head, 0, head.rows, product.panel);
  const int64_t all = columns.all();
  const int64_t padded_width = round_up(width, product.panel);
  Arena arena(all * (5 * width + padded_width) + 2 * kBlock * (all + padded_width) + 256);
  float* rows = arena.take(all * width);
  float* keys = arena.take(all * width);
  float* values = arena.take(all * width);
  float* key_columns = arena.take(all * padded_width);
  float* dkeys = arena.take(all * width);
  float* dvalues = arena.take(all * width);
  float* p = arena.take(kBlock * all);
  float* ds = arena.take(kBlock * all);
  float* q_columns = arena.take(kBlock * padded_width);
  float* dy_columns = arena.take(kBlock * padded_width);
  columns.gather(head, head.k, head.window_k, head.far_k, head.rows, rows);
  product.pack_rows(rows, all, width, width, keys);
  product.pack_columns(rows, all, width, width, key_columns);
  columns.gather(head, head.v, head.window_v, head.far_v, head.rows, rows);
  product.pack_rows(rows, all, width, width, values);
  std::fill(dkeys, dkeys + all * width, 0.0f);
  std::fill(dvalues, dvalues + all * width, 0.0f);

  for (int64_t r0 = 0; r0 < head.rows; r0 += kBlock) {
    const int64_t r1 = std::min(head.rows, r0 + kBlock);
    const int64_t n = r1 - r0;
    const auto [from, to] = columns.span(head, r0, r1, product.panel);
    const int64_t far = round_up(head.far_count(r1 - 1), product.panel);
    const float* q = head.q + r0 * head.dim;
    const float* d = dy + r0 * head.dim;
    product.pack_columns(q, n, width, head.dim, q_columns);
    product.pack_columns(d, n, width, head.dim, dy_columns);
    // Far columns [0, far), then near ones.
    const std::pair<int64_t, int64_t> ranges[] = {{0, far}, {columns.far + from, columns.far + to}};
    for (const auto& [begin, end] : ranges) {
      product(n, end - begin, width, q, head.dim, 1, keys + begin * width, product.panel * width, p + begin,
              all, false);
      product(n, end - begin, width, d, head.dim, 1, values + begin * width, product.panel * width,
              ds + begin, all, false);
    }
    for (int64_t t = r0; t < r1; ++t) {
      const int64_t at = (t - r0) * all;
      const float dot = kernels.dot(y + t * head.dim, dy + t * head.dim, width);
      kernels.gradient(p + at, p + at + columns.far, ds + at, ds + at + columns.far,
                       columns.row(head, t, from, to, far), logsumexp[t * heads], dot);
    }
    bool more = false;
    for (const auto& [begin, end] : {ranges[1], ranges[0]}) {
      if (begin == end) continue;
      product(n, width, end - begin, ds + begin, all, 1, key_columns + begin * product.panel,
              product.panel * all, gradients.q + r0 * head.dim, head.dim, more);
      more = true;
      product(end - begin, width, n, ds + begin, 1, all, q_columns, product.panel * n, dkeys + begin * width,
              width, true);
      product(end - begin, width, n, p + begin, 1, all, dy_columns, product.panel * n,
              dvalues + begin * width, width, true);
    }
  }
  scatter(head, columns, dkeys, gradients.k, gradients.window_k, gradients.far_k);
  scatter(head, columns, dvalues, gradients.v, gradients.window_v, gradients.far_v);
}

}  // namespace

void attend(const SparseAttentionOptions& options, const AttentionOperands& operands,
            const std::vector<Span>& spans, float* y, float* logsumexp) {
  const Heads heads(options, operands, spans);
  const int64_t count = options.num_heads;
  struct Task {
    int64_t b;
    int64_t t0;
  };
  std::vector<Task> tasks;
  for (int64_t b = 0; b < static_cast<int64_t>(spans.size()); ++b) {
    for (int64_t t = 0; t < spans[static_cast<size_t>(b)].length(); t += kChunk) tasks.push_back({b, t});
  }
  parallel_for(static_cast<int64_t>(tasks.size()) * count, [&](int64_t i) {
    const Task& task = tasks[static_cast<size_t>(i / count)];
    const Head head = heads.at(task.b, i % count);
    const int64_t first = spans[static_cast<size_t>(task.b)].begin;
    forward(head, task.t0, std::min(head.rows, task.t0 + kChunk),
            y + first * heads.dim() + i % count * head.width, logsumexp + first * count + i % count, count);
  });
}

void SparseAttention::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    const AttentionOperands operands = operands_of(in);
    const std::vector<Span> spans = spans_of(options, in);
    float* y = out[0].data<float>();
    float* logsumexp = out[1].data<float>();
    if (options.ragged) {
      const int64_t total = in[0].shape(0);
      zero_gaps(y, spans, total, operands.dim);
      zero_gaps(logsumexp, spans, total, options.num_heads);
    }
    attend(options, operands, spans, y, logsumexp);
  });
}

void SparseAttentionGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    const AttentionOperands operands = operands_of(in);
    const std::vector<Span> spans = spans_of(options, in);
    const Heads heads(options, operands, spans);
    const int64_t count = options.num_heads;
    for (auto& x : out) std::fill(x.data<float>(), x.data<float>() + x.size(), 0.0f);
    const float* y = in[in.size() - 3].data<float>();
    const float* logsumexp = in[in.size() - 2].data<float>();
    const float* dy = in[in.size() - 1].data<float>();
    parallel_for(static_cast<int64_t>(heads.spans().size()) * count, [&](int64_t i) {
      const int64_t b = i / count;
      const int64_t h = i % count;
      const Head head = heads.at(b, h);
      if (head.rows == 0) return;
      const int64_t first = heads.spans()[static_cast<size_t>(b)].begin;
      const int64_t row = first * heads.dim() + h * head.width;
      const auto state = [&](size_t j, int64_t rows) {
        return out.size() > 3 ? out[j].data<float>() + b * rows * heads.dim() + h * head.width : nullptr;
      };
      backward(head, y + row, dy + row, logsumexp + first * count + h, count,
               {out[0].data<float>() + row, out[1].data<float>() + row, out[2].data<float>() + row,
                state(3, head.stride), state(4, head.stride), state(5, head.cached), state(6, head.cached)});
    });
  });
}

}  // namespace ghost
