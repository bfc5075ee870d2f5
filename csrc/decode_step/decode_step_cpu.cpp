#include <algorithm>
#include <cmath>

#include "causal_conv1d/causal_conv1d_kernels.h"
#include "codebook_matmul/codebook_matmul_product.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "cross_entropy/cross_entropy_kernels.h"
#include "decode_step/decode_step.h"
#include "decode_step/decode_step_kernels.h"
#include "dense_matmul/dense_matmul_kernels.h"
#include "gelu/gelu_kernels.h"
#include "rms_norm/rms_norm_kernels.h"
#include "selective_scan/selective_scan_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kSerialRows =
    1 << 16;  // multiply-adds of a row's scan or attention not worth waking a thread for

const float* floats(const mx::array& x) { return x.data<float>(); }

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }

// One array of the state: `now` holds the new one. Where it is not the old one's memory, what a step does not
// write has to be copied.
struct State {
  const mx::array* old;
  mx::array* now;

  int64_t row_size() const { return static_cast<int64_t>(now->size()) / std::max(now->shape(0), 1); }
  int64_t old_row_size() const { return static_cast<int64_t>(old->size()) / std::max(old->shape(0), 1); }
  const float* before(int64_t b) const { return old->data<float>() + b * old_row_size(); }
  float* after(int64_t b) const { return now->data<float>() + b * row_size(); }
  bool in_place() const { return old->data<char>() == now->data<char>(); }

  // Copies the old rows of sequence b; what capacity was added is zero.
  void keep(int64_t b) const {
    if (in_place()) return;
    std::copy_n(before(b), old_row_size(), after(b));
    std::fill(after(b) + old_row_size(), after(b) + row_size(), 0.0f);
  }
};

// The rows of a batch at work on one byte each.
class Step {
 public:
  Step(const DecodeWeights& weights, const DecodePiece& piece, const Arrays& in, Arrays& out)
      : w_(weights), piece_(piece), in_(in), out_(out), batch_(in[0].shape(0)), dim_(w_.embedding.shape(1)) {
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

  void run() {
    if (batch_ == 0) return;
    piece_.front ? front() : take_h();
    for (int l = piece_.first; l < piece_.last; ++l) layer(l);
    mx::array& result = out_.back();
    if (!piece_.at_end(w_)) {
      std::copy_n(h_, batch_ * dim_, result.data<float>());
      return;
    }
    normalize(h_, w_.norm, x_, batch_);
    multiply(w_.head, x_, batch_, result.data<float>());
  }

 private:
  State next_state() {
    const State state{&in_[piece_.first_state(w_) + state_], &out_[state_]};
    ++state_;
    return state;
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
    // Down by a row; in place as well, for copy_n goes upwards.
    std::copy_n(state.before(b) + dim, (width - 2) * dim, state.after(b));
    std::copy_n(x, dim, state.after(b) + (width - 2) * dim);
  }

  void add(const float* y, int64_t row) const {
    float* h = h_ + row * dim_;
    for (int64_t d = 0; d < dim_; ++d) h[d] += y[d];
  }

  int token(int64_t b) const { return std::clamp(in_[0].data<int32_t>()[b], 0, w_.embedding.shape(0) - 1); }

  // -- tokenizer and cheap predictor
  // ------------------------------------------------------------------------------

  void front() {
    const State conv = next_state(), ssm = next_state(), last = next_state(), cheap = next_state();
    for (int64_t b = 0; b < batch_; ++b) tokenize(b, conv, ssm, last);
    // While the cheap predictor's last logits are still there.
    normalize(h_, w_.router_norm, x_, batch_);
    if (w_.config.routing) {
      float* depth = out_[out_.size() - 2].data<float>();
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

  // -- layers
  // -----------------------------------------------------------------------------------------------------

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
    if (n > 1 && work > kSerialRows / n) return parallel_for(n, fn);
    for (int64_t i = 0; i < n; ++i) fn(i);
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

  // -- attention
  // --------------------------------------------------------------------------------------------------

  struct Cache {
    State window_k, window_v, strided_k, strided_v, count;
  };

  void attention(const DecodeAttention& layer, const std::vector<int64_t>& rows) {
    const Cache cache{next_state(), next_state(), next_state(), next_state(), next_state()};
    for (int64_t b = 0; b < batch_; ++b) {
      for (const State* state : {&cache.window_k, &cache.window_v, &cache.strided_k, &cache.strided_v})
        state->keep(b);
    }
    const int32_t* count = cache.count.old->data<int32_t>();
    if (!cache.count.in_place()) std::copy_n(count, batch_, cache.count.now->data<int32_t>());
    const auto n = static_cast<int64_t>(rows.size());
    if (n == 0) return;
    gather(rows, layer.norm);
    float* q = rest_;
    float* k = q + n * dim_;
    float* v = k + n * dim_;
    float* y = v + n * dim_;
    multiply(layer.query, x_, n, q);
    multiply(layer.key, x_, n, k);
    multiply(layer.value, x_, n, v);
    for_rows(rows, 2 * w_.config.stride * dim_, [&](int64_t i) {
      const int64_t b = rows[static_cast<size_t>(i)];
      attend(cache, b, q + i * dim_, k + i * dim_, v + i * dim_, y + i * dim_);
    });
    multiply(layer.out, y, n, y_);
    scatter(rows);
  }

  // Row number t of sequence b looks at the `stride` rows up to itself, and at every stride-th row before
  // those.
  void attend(const Cache& cache, int64_t b, const float* q, const float* k, const float* v, float* y) const {
    const int64_t stride = w_.config.stride;
    const int64_t t = std::max<int64_t>(cache.count.now->data<int32_t>()[b], 0);
    cache.count.now->data<int32_t>()[b] = static_cast<int32_t>(t + 1);
    const int64_t slot = t % stride, capacity = cache.strided_k.now->shape(1);
    std::copy_n(k, dim_, cache.window_k.after(b) + slot * dim_);
    std::copy_n(v, dim_, cache.window_v.after(b) + slot * dim_);
    if (slot == stride - 1 && t / stride < capacity) {
      std::copy_n(k, dim_, cache.strided_k.after(b) + t / stride * dim_);
      std::copy_n(v, dim_, cache.strided_v.after(b) + t / stride * dim_);
    }
    const int64_t near = std::min(t + 1, stride);
    const int64_t far = std::clamp<int64_t>((t + 1) / stride - 1, 0, capacity);
    float* distance = scratch(Scratch::scan, static_cast<size_t>(2 * near + far));
    float* scores = distance + near;
    for (int64_t j = 0; j < near; ++j)
      distance[j] = static_cast<float>(j <= slot ? slot - j : slot - j + stride);

    const int64_t head_dim = w_.config.head_dim, heads = dim_ / head_dim;
    const auto& kernels = decode_kernels();
    const auto& softmax = cross_entropy_kernels().get<float>();
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    std::fill_n(y, dim_, 0.0f);
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t at = head * head_dim;
      const float slope = std::exp2(-8.0f * static_cast<float>(head + 1) / static_cast<float>(heads));
      kernels.scores(q + at, cache.window_k.after(b) + at, near, dim_, head_dim, scale, slope, distance,
                     scores);
      kernels.scores(q + at, cache.strided_k.after(b) + at, far, dim_, head_dim, scale, 0.0f, nullptr,
                     scores + near);
      float largest, total;
      softmax.sum_exp(scores, near + far, &largest, &total);
      softmax.softmax(scores, largest, std::log(total), 1.0f, scores, near + far);
      kernels.mix(scores, cache.window_v.after(b) + at, near, dim_, head_dim, y + at);
      kernels.mix(scores + near, cache.strided_v.after(b) + at, far, dim_, head_dim, y + at);
    }
  }

  const DecodeWeights& w_;
  const DecodePiece& piece_;
  const Arrays& in_;
  Arrays& out_;
  int64_t batch_;
  int64_t dim_;
  size_t state_ = 0;
  const float* depth_ = nullptr;
  float* h_;     // (batch, dim), the residual stream
  float* x_;     // (batch, dim), normalized
  float* y_;     // (batch, dim), what a block adds
  float* rest_;  // what is wider
};

// Whether a state may be overwritten. A small one inside a large buffer is not: it would keep that.
bool reusable(const mx::array& x) {
  constexpr size_t kSlack = 1 << 16;
  return x.is_donatable() && x.buffer_size() < x.nbytes() + kSlack;
}

}  // namespace

void DecodeStep::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  // Every output holds the inputs until all are evaluated, and then lets go of them. Those of the siblings go
  // first here, for an input that is held once can be written to.
  for (auto& out : outputs) {
    if (&out.inputs() != &inputs && !out.is_tracer()) out.inputs().clear();
  }
  const size_t first = piece_.first_state(*weights_);
  const size_t states = inputs.size() - first;
  for (size_t i = 0; i < outputs.size(); ++i) {
    auto& out = outputs[i];
    const bool continues = i < states && out.shape() == inputs[first + i].shape();
    if (continues && reusable(inputs[first + i])) {
      out.copy_shared_buffer(inputs[first + i]);
    } else {
      out.set_data(mx::allocator::malloc(out.nbytes()));
    }
  }
  const auto weak = [](const Arrays& arrays) {
    Arrays copies;
    copies.reserve(arrays.size());
    for (const auto& x : arrays) copies.push_back(mx::array::unsafe_weak_copy(x));
    return copies;
  };
  mx::cpu::get_command_encoder(stream()).dispatch(
      [in = weak(inputs), out = weak(outputs), weights = weights_, piece = piece_]() mutable {
        Step(*weights, piece, in, out).run();
      });
}

}  // namespace ghost
