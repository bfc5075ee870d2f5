#include <algorithm>
#include <cmath>
#include <optional>

#include "causal_conv1d/causal_conv1d_kernels.h"
#include "codebook_matmul/codebook_matmul_product.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "cross_entropy/cross_entropy_kernels.h"
#include "decode_step/decode_step_kernels.h"
#include "decode_step/step_state.h"
#include "dense_matmul/dense_matmul_kernels.h"
#include "gelu/gelu_kernels.h"
#include "rms_norm/rms_norm_kernels.h"
#include "selective_scan/selective_scan_kernels.h"
#include "sparse_attention/sparse_attention.h"

namespace ghost {
namespace {

// Multiply-adds of a row's scan or attention that are not worth waking a thread for.
constexpr int64_t kSerialRows = 1 << 16;

// Recent rows before they are written to the window.
constexpr int64_t kRecent = 16;

// The rows of a batch at work on one byte each.
class Step {
 public:
  Step(const DecodeWeights& weights, const DecodePiece& piece, const Arrays& in)
      : w_(weights), piece_(piece), in_(in), batch_(in[0].shape(0)), dim_(w_.embedding.shape(1)) {
    int64_t widest = 0;  // floats of a layer's temporaries, per row
    for (const auto& layer : w_.layers) {
      const int64_t inner = layer.A.shape(0);
      widest = std::max(widest, 3 * inner + layer.x_proj.rows + layer.dt_proj.columns);
      widest = std::max<int64_t>({widest, layer.up.rows, 4 * dim_});
    }
    widest = std::max<int64_t>(widest, w_.cheap_in.rows + w_.project.rows);
    h_ = scratch(Scratch::decode, static_cast<size_t>(batch_ * (3 * dim_ + widest)));
    x_ = h_ + batch_ * dim_;
    y_ = x_ + batch_ * dim_;
    rest_ = y_ + batch_ * dim_;
  }

  Arrays run() {
    at_ = piece_.first_state(w_);
    piece_.front ? front() : take_h();
    for (int l = piece_.first; l < piece_.last; ++l) layer(l);
    if (piece_.front && w_.config.routing) out_.push_back(*depth_array_);
    const int batch = static_cast<int>(batch_);
    mx::array result = make({batch, 1, piece_.at_end(w_) ? w_.head.rows : w_.embedding.shape(1)});
    if (piece_.at_end(w_)) {
      normalize(h_, w_.norm, x_, batch_);
      multiply(w_.head, x_, batch_, result.data<float>());
    } else {
      std::copy_n(h_, batch_ * dim_, result.data<float>());
    }
    out_.push_back(std::move(result));
    return std::move(out_);
  }

 private:
  // The next array of the state, and one of the same shape for what becomes of it.
  State next_state() {
    const mx::array& old = in_[at_++];
    out_.push_back(make(old.shape(), old.dtype()));
    return {old, out_.back()};
  }

  void normalize(const float* x, const mx::array& weight, float* y, int64_t rows) const {
    rms_norm_kernels().get<float>().forward(x, floats(weight), w_.config.eps, y, rows, dim_);
  }

  void multiply(const DecodeMatrix& m, const float* x, int64_t rows, float* y) const {
    switch (m.form) {
      case DecodeMatrix::Form::by_row:
        return multiply_codes(
            x, rows, {m.values.data<uint32_t>(), floats(m.codebook), m.rows, m.columns, 4, m.columns}, y);
      case DecodeMatrix::Form::by_column:
        for (int64_t r = 0; r < rows; ++r) {
          decode_kernels().multiply_columns(m.values.data<uint32_t>(), floats(m.codebook), m.columns / 16,
                                            m.rows, x + r * m.columns, y + r * m.rows);
        }
        return;
      case DecodeMatrix::Form::dense:
        dense_dot_kernels().get<float>().dot(x, static_cast<int>(rows), floats(m.values), m.columns, 0,
                                             m.rows, y, m.rows);
    }
  }

  // One row through a depthwise filter of which the state holds the rows before.
  void convolve(const float* x, const mx::array& weight, const mx::array& bias, const State& state, int64_t b,
                float* y) const {
    const int64_t dim = weight.shape(1);
    const int width = weight.shape(0);
    const CausalConv1dRows<float> rows{x, state.before(b), floats(weight), floats(bias), 1, dim, width, true};
    causal_conv1d_kernels().get<float>().forward(rows, y, 0, 1);
    std::copy_n(state.before(b) + dim, (width - 2) * dim, state.after(b));
    std::copy_n(x, dim, state.after(b) + (width - 2) * dim);
  }

  void add(const float* y, int64_t row) const {
    float* h = h_ + row * dim_;
    for (int64_t d = 0; d < dim_; ++d) h[d] += y[d];
  }

  int token(int64_t b) const { return std::clamp(in_[0].data<int32_t>()[b], 0, w_.embedding.shape(0) - 1); }

  void front() {
    const State conv = next_state(), ssm = next_state(), last = next_state(), cheap = next_state();
    for (int64_t b = 0; b < batch_; ++b) tokenize(b, conv, ssm, last);
    normalize(h_, w_.router_norm, x_, batch_);
    if (w_.config.routing) {
      depth_array_ = make({static_cast<int>(batch_), 1});
      float* depth = depth_array_->data<float>();
      for (int64_t b = 0; b < batch_; ++b) depth[b] = depth_of(b, cheap.before(b));
      depth_ = depth;
    }
    multiply(w_.cheap_in, x_, batch_, rest_);
    multiply(w_.cheap_out, rest_, batch_, y_);
    for (int64_t i = 0; i < batch_ * dim_; ++i) x_[i] += y_[i];
    multiply(w_.head, x_, batch_, cheap.after(0));
  }

  void tokenize(int64_t b, const State& conv, const State& ssm, const State& last) const {
    float* h = h_ + b * dim_;
    const float* embedded = floats(w_.embedding) + token(b) * dim_;
    convolve(embedded, w_.conv_weight, w_.conv_bias, conv, b, h);
    for (int64_t d = 0; d < dim_; ++d) h[d] += embedded[d];
    const int64_t channels = w_.project.rows;
    float* features = rest_;
    multiply(w_.project, h, 1, features);
    float logit = floats(w_.boundary_bias)[0];
    for (int64_t c = 0; c < channels; ++c) {
      const float rate = floats(w_.rate)[c];
      const float before = last.before(b)[c];
      const float s = std::exp(-rate) * ssm.before(b)[c] + rate * std::tanh(features[c]);
      logit += std::abs(s - before) * floats(w_.boundary_weight)[c];
      ssm.after(b)[c] = s;
      last.after(b)[c] = s;
    }
    const float boundary = 1.0f + sigmoid(logit);
    for (int64_t d = 0; d < dim_; ++d) h[d] *= boundary;
  }

  // x_ holds the router's normalized view of h.
  float depth_of(int64_t b, const float* cheap) const {
    float largest, total;
    cross_entropy_kernels().get<float>().sum_exp(cheap, w_.head.rows, &largest, &total);
    const float surprise = 1.0f - std::exp(cheap[std::min(token(b), w_.head.rows - 1)] - largest) / total;
    float score = 0.0f;
    dense_dot_kernels().get<float>().dot(x_ + b * dim_, 1, floats(w_.context), dim_, 0, 1, &score, 1);
    score += floats(w_.bias)[0] + floats(w_.importance)[token(b)];
    const float depth = 1.0f + static_cast<float>(w_.config.max_depth - 1) * sigmoid(score);
    const auto shallow = static_cast<float>(w_.config.min_depth);
    return surprise < w_.config.threshold ? std::min(depth, shallow) : depth;
  }

  void take_h() {
    std::copy_n(floats(in_[0]), batch_ * dim_, h_);
    if (w_.config.routing) depth_ = floats(in_[1]);
  }

  // The sequences that go through layer l.
  std::vector<int64_t> routed(int l) const {
    std::vector<int64_t> rows;
    const bool all = !w_.config.routing || l < w_.config.min_depth;
    for (int64_t b = 0; b < batch_; ++b) {
      if (all || depth_[b] > static_cast<float>(l)) rows.push_back(b);
    }
    return rows;
  }

  void gather(const std::vector<int64_t>& rows, const mx::array& norm) const {
    for (size_t i = 0; i < rows.size(); ++i)
      normalize(h_ + rows[i] * dim_, norm, x_ + static_cast<int64_t>(i) * dim_, 1);
  }

  void scatter(const std::vector<int64_t>& rows) const {
    for (size_t i = 0; i < rows.size(); ++i) add(y_ + static_cast<int64_t>(i) * dim_, rows[i]);
  }

  // fn(i) for the i-th of the rows at work, each writing what its sequence owns.
  template <class Fn>
  void for_rows(const std::vector<int64_t>& rows, int64_t work, Fn&& fn) const {
    const auto n = static_cast<int64_t>(rows.size());
    parallel_for_if(n > 1 && work > kSerialRows / n, n, fn);
  }

  void layer(int l) {
    const DecodeLayer& layer = w_.layers[static_cast<size_t>(l)];
    const auto rows = routed(l);
    mamba(layer, rows);
    if (layer.attention) attention(*layer.attention, rows);
    const auto n = static_cast<int64_t>(rows.size());
    if (n == 0) return;
    gather(rows, layer.ffn_norm);
    multiply(layer.up, x_, n, rest_);
    gelu_kernels().get<float>().forward(rest_, rest_, n * layer.up.rows);
    multiply(layer.down, rest_, n, y_);
    scatter(rows);
  }

  void mamba(const DecodeLayer& layer, const std::vector<int64_t>& rows) {
    const State conv = next_state(), ssm = next_state();
    const auto n = static_cast<int64_t>(rows.size());
    if (n < batch_) {
      for (int64_t b = 0; b < batch_; ++b) {
        if (std::binary_search(rows.begin(), rows.end(), b)) continue;
        conv.keep(b);
        ssm.keep(b);
      }
    }
    if (n == 0) return;
    const int64_t inner = layer.A.shape(0), dstate = layer.A.shape(1);
    const int64_t rank = layer.dt_proj.columns, parts = layer.x_proj.rows;
    float* u = rest_;
    float* z = u + n * inner;
    float* delta = z + n * inner;
    float* projected = delta + n * inner;
    float* dt = projected + n * parts;
    gather(rows, layer.mamba_norm);
    multiply(layer.in_x, x_, n, delta);
    multiply(layer.in_z, x_, n, z);
    for (int64_t i = 0; i < n; ++i) {
      convolve(delta + i * inner, layer.conv_weight, layer.conv_bias, conv, rows[static_cast<size_t>(i)],
               u + i * inner);
    }
    multiply(layer.x_proj, u, n, projected);
    for (int64_t i = 0; i < n; ++i) std::copy_n(projected + i * parts, rank, dt + i * rank);
    multiply(layer.dt_proj, dt, n, delta);
    for_rows(rows, inner * dstate, [&](int64_t i) {
      const int64_t b = rows[static_cast<size_t>(i)];
      const float* B = projected + i * parts + rank;
      const ScanSequence<float> row{u + i * inner,
                                    delta + i * inner,
                                    z + i * inner,
                                    floats(layer.A),
                                    B,
                                    B + dstate,
                                    floats(layer.D),
                                    floats(layer.dt_bias),
                                    ssm.before(b),
                                    1,
                                    inner,
                                    dstate,
                                    static_cast<int>(dstate),
                                    true};
      selective_scan_kernels().get<float>().step(row, {0, inner, 0}, u + i * inner, ssm.after(b));
    });
    multiply(layer.out_proj, u, n, y_);
    scatter(rows);
  }

  void attention(const DecodeAttention& layer, const std::vector<int64_t>& rows) {
    const AttentionCache cache(in_, at_, w_.config.stride);
    at_ += 7;
    const auto n = static_cast<int64_t>(rows.size());
    if (n == 0) return cache.keep(out_);
    gather(rows, layer.norm);
    float* q = rest_;
    float* k = q + n * dim_;
    float* v = k + n * dim_;
    float* y = v + n * dim_;
    multiply(layer.query, x_, n, q);
    multiply(layer.key, x_, n, k);
    multiply(layer.value, x_, n, v);
    for_rows(rows, 2 * w_.config.stride * dim_, [&](int64_t i) {
      attend(cache, rows[static_cast<size_t>(i)], q + i * dim_, k + i * dim_, v + i * dim_, y + i * dim_);
    });
    multiply(layer.out, y, n, y_);
    scatter(rows);
    remember(cache, rows, k, v);
  }

  // Row number t of sequence b looks at the `stride` rows up to itself, and at every stride-th row before
  // those.
  void attend(const AttentionCache& cache, int64_t b, const float* q, const float* k, const float* v,
              float* y) const {
    const int64_t stride = w_.config.stride, capacity = cache.strided_k.shape(1), r = cache.r();
    const int64_t t = cache.count.data<int32_t>()[b], before = std::max<int64_t>(t - r, 0);
    // Of the window: rows that there were, and that are still within `stride` of this one.
    const int64_t oldest = std::max(stride - before, std::min(r + 1, stride)), in_window = stride - oldest;
    const int64_t far = std::clamp<int64_t>((t + 1) / stride - 1, 0, capacity);
    const int64_t near = in_window + r + 1, seen = near + far;
    float* distance = scratch(Scratch::scan, static_cast<size_t>(near + seen));
    float* scores = distance + near;
    for (int64_t i = 0; i < near; ++i) distance[i] = static_cast<float>(near - 1 - i);

    // Where the keys and values of the rows are, in that order.
    struct Rows {
      const float* k;
      const float* v;
      int64_t count;
    };
    const auto of = [&](const mx::array& x) { return floats(x) + b * x.shape(1) * dim_; };
    const Rows parts[]{{of(cache.window_k) + oldest * dim_, of(cache.window_v) + oldest * dim_, in_window},
                       {of(cache.recent_k), of(cache.recent_v), r},
                       {k, v, 1},
                       {of(cache.strided_k), of(cache.strided_v), far}};
    const int64_t head_dim = w_.config.head_dim, heads = dim_ / head_dim;
    const auto& kernels = decode_kernels();
    const auto& softmax = cross_entropy_kernels().get<float>();
    const SparseAttentionOptions options{static_cast<int>(heads), w_.config.stride};
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    std::fill_n(y, dim_, 0.0f);
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t at = head * head_dim;
      const float slope = options.slope(static_cast<int>(head));
      int64_t from = 0;
      for (const Rows& part : parts) {
        const bool is_far = &part == &parts[3];
        kernels.scores(q + at, part.k + at, part.count, dim_, head_dim, scale, slope,
                       is_far ? nullptr : distance + from, scores + from);
        from += part.count;
      }
      float largest, total;
      softmax.sum_exp(scores, seen, &largest, &total);
      softmax.softmax(scores, largest, std::log(total), 1.0f, scores, seen);
      from = 0;
      for (const Rows& part : parts) {
        kernels.mix(scores + from, part.v + at, part.count, dim_, head_dim, y + at);
        from += part.count;
      }
    }
  }

  // The cache after rows k and v (n, dim) of the sequences `rows`.
  void remember(const AttentionCache& cache, const std::vector<int64_t>& rows, const float* k,
                const float* v) {
    const int64_t stride = w_.config.stride, r = cache.r();
    const int batch = static_cast<int>(batch_), dim = static_cast<int>(dim_);
    mx::array count = make({batch}, mx::int32);
    std::copy_n(cache.count.data<int32_t>(), batch_, count.data<int32_t>());
    int64_t capacity = cache.strided_k.shape(1);
    bool grows = false;
    for (int64_t b : rows) {
      const int32_t after = ++count.data<int32_t>()[b];
      grows = grows || after % stride == 0;
      capacity = std::max<int64_t>(capacity, after / stride);
    }
    // Recent rows are the last of every sequence, so a byte for some of them only goes to the windows.
    const bool to_window = r + 1 >= std::min(kRecent, stride) || static_cast<int64_t>(rows.size()) < batch_;
    Arrays windows, recents;
    for (const bool keys : {true, false}) {
      const mx::array& old = keys ? cache.window_k : cache.window_v;
      const mx::array& old_recent = keys ? cache.recent_k : cache.recent_v;
      mx::array window = to_window ? make(old.shape()) : old;
      mx::array recent = make({batch, to_window ? 0 : static_cast<int>(r) + 1, dim});
      for (int64_t b = 0, i = 0; b < batch_; ++b) {
        const bool at_work = i < static_cast<int64_t>(rows.size()) && rows[static_cast<size_t>(i)] == b;
        const int64_t fresh = r + (at_work ? 1 : 0);
        float* to =
            to_window ? window.data<float>() + b * stride * dim_ : recent.data<float>() + b * fresh * dim_;
        if (to_window) {
          const float* kept = floats(old) + b * stride * dim_;
          to = std::copy_n(kept + fresh * dim_, (stride - fresh) * dim_, to);
        }
        to = std::copy_n(floats(old_recent) + b * r * dim_, r * dim_, to);
        if (at_work) std::copy_n((keys ? k : v) + i++ * dim_, dim_, to);
      }
      windows.push_back(window);
      recents.push_back(recent);
    }
    out_.insert(out_.end(), windows.begin(), windows.end());
    out_.insert(out_.end(), recents.begin(), recents.end());
    for (const bool keys : {true, false}) {
      const mx::array& old = keys ? cache.strided_k : cache.strided_v;
      if (!grows) {
        out_.push_back(old);
        continue;
      }
      mx::array strided = make({batch, static_cast<int>(capacity), dim});
      const int64_t held = old.shape(1);
      for (int64_t b = 0; b < batch_; ++b) {
        float* to = strided.data<float>() + b * capacity * dim_;
        std::copy_n(floats(old) + b * held * dim_, held * dim_, to);
        std::fill(to + held * dim_, to + capacity * dim_, 0.0f);
      }
      for (size_t i = 0; i < rows.size(); ++i) {
        const int64_t after = count.data<int32_t>()[rows[i]];
        if (after <= 0 || after % stride) continue;
        float* to = strided.data<float>() + (rows[i] * capacity + after / stride - 1) * dim_;
        std::copy_n((keys ? k : v) + static_cast<int64_t>(i) * dim_, dim_, to);
      }
      out_.push_back(strided);
    }
    out_.push_back(count);
  }

  const DecodeWeights& w_;
  const DecodePiece& piece_;
  const Arrays& in_;
  size_t at_ = 0;  // the next input to read
  Arrays out_;
  int64_t batch_;
  int64_t dim_;
  std::optional<mx::array> depth_array_;
  const float* depth_ = nullptr;
  float* h_;     // (batch, dim), the residual stream
  float* x_;     // (batch, dim), normalized
  float* y_;     // (batch, dim), what a block adds
  float* rest_;  // what is wider
};

}  // namespace

Arrays decode_step(const DecodeWeights& weights, DecodePiece piece, const Arrays& inputs) {
  const Arrays ready = decode_inputs(weights, piece, inputs);
  return ready[0].shape(1) == 1 ? Step(weights, piece, ready).run() : prefill(weights, piece, ready);
}

}  // namespace ghost
