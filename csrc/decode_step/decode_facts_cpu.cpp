#include <algorithm>
#include <cmath>
#include <vector>

#include "decode_step/decode_facts.h"
#include "dense_matmul/dense_matmul_kernels.h"
#include "fact_memory/fact_memory_host.h"
#include "fact_recurrence/fact_recurrence_kernels.h"
#include "rms_norm/rms_norm_kernels.h"
#include "silu/silu_kernels.h"

namespace ghost {
namespace {

constexpr const char* kOp = "fact_step";
constexpr int kGrams = 4;
constexpr int kFeatures = 6;
constexpr float kEps = 1e-6f;

using Buffer = std::vector<float>;

const float* floats(const mx::array& x) { return x.data<float>(); }
const int32_t* ints(const mx::array& x) { return x.data<int32_t>(); }
float* floats(mx::array& x) { return x.data<float>(); }

float sigmoid(float x) { return 1.0f / (1.0f + std::exp(-x)); }
float log_sigmoid(float x) { return std::min(x, 0.0f) - std::log1p(std::exp(-std::abs(x))); }

mx::array make(mx::Shape shape, mx::Dtype dtype = mx::float32) {
  size_t bytes = mx::size_of(dtype);
  for (int n : shape) bytes *= static_cast<size_t>(n);
  return mx::array(mx::allocator::malloc(bytes), std::move(shape), dtype);
}

mx::array make_like(const mx::array& x) { return make(x.shape(), x.dtype()); }

void require_array(const char* name, const mx::array& x, const mx::Shape& shape,
                   mx::Dtype dtype = mx::float32) {
  require(x.dtype() == dtype, kOp, name, " has the wrong dtype, given ", x.dtype(), ", allowed: ", dtype,
          ".");
  require_shape(kOp, name, x, shape, "that of this memory and batch, here");
}

Arrays ready(const Arrays& given) {
  Arrays inputs;
  inputs.reserve(given.size());
  bool all = true;
  for (const auto& x : given) {
    const bool is_ready = x.is_available() && x.flags().row_contiguous;
    inputs.push_back(is_ready ? x : dense(x, mx::to_stream({})));
    all = all && is_ready;
  }
  if (!all) mx::eval(inputs);
  return inputs;
}

// weight (N, K) times x.
void product(const float* x, const float* weight, int64_t rows, int64_t columns, float* y) {
  dense_dot_kernels().get<float>().dot(x, 1, weight, columns, 0, rows, y, rows);
}
void product(const float* x, const mx::array& weight, float* y) {
  product(x, floats(weight), weight.shape(0), weight.shape(1), y);
}
float product(const float* x, const mx::array& weight) {
  float y = 0.0f;
  product(x, floats(weight), 1, weight.shape(1), &y);
  return y;
}

void normalize(const float* x, const Buffer& weight, float eps, float* y) {
  const auto dim = static_cast<int64_t>(weight.size());
  rms_norm_kernels().get<float>().forward(x, weight.data(), eps, y, 1, dim);
}

// A row moved on by one: the oldest of `count` entries of `width` drops out, `last` comes in.
template <class T>
void move_on(const T* old, int64_t count, int64_t width, const T* last, T* now) {
  std::copy(old + width, old + count * width, now);
  std::copy(last, last + width, now + (count - 1) * width);
}

// One stream's byte. Names are those of FactMemory._address_block.
class Address {
 public:
  Address(const FactWeights& w, const Arrays& in)
      : w_(w),
        in_(in),
        dim_(w.gate_hidden.shape(1)),
        hidden_(w.gram_in.shape(0)),
        key_dim_(w.gram_out.shape(0)),
        scorer_(floats(in[8]), ints(in[3]), in[8].shape(0), key_dim_, floats(w.score_scale),
                floats(w.null_score)[0]),
        ones_(static_cast<size_t>(dim_), 1.0f),
        shrink_(static_cast<size_t>(key_dim_), 1.0f / std::sqrt(static_cast<float>(key_dim_))) {
    const int batch = in[0].shape(0);
    out_ = {make({batch, 1, w.value_embedding.shape(0)}), make({batch, 1, kFactBytes}), make({batch, 1}),
            make({batch, 1, kFeatures})};
    for (size_t i = 9; i < 17; ++i) out_.push_back(make_like(in[i]));
    fact_position_scale(floats(w.position_scale), scale_);
  }

  Arrays run() {
    for (int64_t b = 0; b < in_[0].shape(0); ++b) row(b);
    return std::move(out_);
  }

 private:
  // Row b of input or output i.
  template <class T = float>
  const T* from(size_t i, int64_t b) const {
    return in_[i].data<T>() + b * (static_cast<int64_t>(in_[i].size()) / in_[i].shape(0));
  }
  template <class T = float>
  T* to(size_t i, int64_t b) {
    return out_[i].data<T>() + b * (static_cast<int64_t>(out_[i].size()) / out_[i].shape(0));
  }

  // The embeddings of the byte at `newest` and of the three before it.
  Buffer embed(const int32_t* newest) const {
    const int64_t each = w_.byte_embedding.shape(1);
    Buffer x(static_cast<size_t>(kGrams * each));
    for (int i = 0; i < kGrams; ++i) {
      const float* row = floats(w_.byte_embedding) + std::clamp(newest[-i], 0, 256) * each;
      std::copy_n(row, each, x.data() + i * each);
    }
    return x;
  }

  void silu(Buffer& x) const {
    silu_kernels().get<float>().forward(x.data(), x.data(), static_cast<int64_t>(x.size()));
  }

  float hit_weight(const int32_t* before, const float* normed) const {
    Buffer sensed(static_cast<size_t>(w_.hit_before.shape(0)));
    product(embed(before).data(), w_.hit_before, sensed.data());
    silu(sensed);
    return log_sigmoid(product(normed, w_.hit_hidden) + product(sensed.data(), w_.hit_out) +
                       floats(w_.hit_bias)[0]);
  }

  void row(int64_t b) {
    const int64_t history = in_[9].shape(1);
    std::vector<int32_t> text(from<int32_t>(9, b), from<int32_t>(9, b) + history);
    text.push_back(ints(w_.fold)[std::clamp(ints(in_[1])[b], 0, 256)]);
    std::copy(text.begin() + 1, text.end(), to<int32_t>(4, b));
    const int32_t* now = text.data() + history;

    // The hidden state as the gates and the start detector see it, with room for the two traces.
    Buffer normed(static_cast<size_t>(dim_ + 2));
    normalize(from(0, b), ones_, kEps, normed.data());
    Buffer hidden(static_cast<size_t>(hidden_));
    product(embed(now).data(), w_.gram_in, hidden.data());
    for (int64_t i = 0; i < hidden_; ++i) hidden[static_cast<size_t>(i)] += floats(w_.gram_bias)[i];
    silu(hidden);
    float gates[3], more[3];
    product(hidden.data(), w_.gate_gram, gates);
    product(normed.data(), w_.gate_hidden, more);
    for (int i = 0; i < 3; ++i) gates[i] += more[i] + floats(w_.gate_bias)[i];

    Buffer feature(static_cast<size_t>(key_dim_));
    product(hidden.data(), w_.gram_out, feature.data());
    normalize(feature.data(), shrink_, kEps / static_cast<float>(key_dim_), feature.data());
    const float write = sigmoid(gates[0]), keep = sigmoid(gates[1]);
    float* bag = to(5, b);
    for (int64_t i = 0; i < key_dim_; ++i)
      bag[i] = keep * from(10, b)[i] + write * feature[static_cast<size_t>(i)];

    hits(b, now, normed.data(), log_sigmoid(gates[2]));
    choose(b);
    const float strength = strength_;
    normed[static_cast<size_t>(dim_)] = 4.0f * strength;
    normed[static_cast<size_t>(dim_) + 1] = 4.0f * std::exp(-0.125f * age_);
    Buffer sensed(static_cast<size_t>(w_.start_in.shape(0)));
    product(normed.data(), w_.start_in, sensed.data());
    silu(sensed);
    const float start = product(sensed.data(), w_.start_out) + floats(w_.start_bias)[0];
    move_on(from(14, b), in_[14].shape(1), 1, &start, to(9, b));
    positions(b, now);

    float* features = to(3, b);
    features[0] = std::exp(to(11, b)[(in_[16].shape(1) - 1) * in_[16].shape(2)]);
    features[1] = strength;
    features[2] = *to(2, b);
    features[3] = null_inside_;
    features[4] = sigmoid(start);
    features[5] = cosine_;
    product(to(1, b), w_.value_embedding, to(0, b));
  }

  void hits(int64_t b, const int32_t* now, const float* normed, float log_keep) {
    const int64_t slots = in_[11].shape(1);
    const FactSpelling spelling{
        ints(in_[2]),  ints(in_[3]),    in_[4].data<uint32_t>(), w_.byte_hash.data<uint32_t>(),
        ints(w_.word), in_[2].shape(0), in_[2].shape(1),         w_.hash_base};
    const int32_t found = fact_match_at(spelling, now);
    const int64_t moved = found ? 1 : 0;
    logs_.resize(static_cast<size_t>(slots));
    int32_t* rows = to<int32_t>(6, b);
    float* ages = to(8, b);
    if (found) {
      rows[0] = found;
      logs_[0] = hit_weight(now - ints(in_[3])[found] - 1, normed);
      ages[0] = 0.0f;
    }
    for (int64_t i = moved; i < slots; ++i) {
      rows[i] = from<int32_t>(11, b)[i - moved];
      logs_[static_cast<size_t>(i)] = from(12, b)[i - moved] + log_keep;
      ages[i] = from(13, b)[i - moved] + 1.0f;
    }
    strength_ = rows[0] ? std::exp(logs_[0]) : 0.0f;
    age_ = ages[0];
    for (int64_t i = 0; i < slots; ++i) {
      to(7, b)[i] = std::max(logs_[static_cast<size_t>(i)], -1e3f);
      ages[i] = std::min(ages[i], 1e6f);
    }
  }

  void choose(int64_t b) {
    const int64_t rows = in_[8].shape(0), past = in_[15].shape(1), count = in_[15].shape(2);
    Buffer dot(static_cast<size_t>(rows)), scores(dot.size()), log_weights(static_cast<size_t>(count));
    std::vector<int32_t> candidates(log_weights.size());
    product(to(5, b), in_[8], dot.data());
    float log_norm = 0.0f;
    scorer_.choose({dot.data(), to(5, b), to<int32_t>(6, b), logs_.data(), in_[11].shape(1)},
                   {scores.data(), &cosine_, candidates.data(), log_weights.data(), &log_norm, count});
    move_on(from<int32_t>(15, b), past, count, candidates.data(), to<int32_t>(10, b));
    move_on(from(16, b), past, count, log_weights.data(), to(11, b));
  }

  void positions(int64_t b, const int32_t* now) {
    const int64_t past = in_[15].shape(1), count = in_[15].shape(2), width = in_[5].shape(1);
    Buffer yes(static_cast<size_t>(width)), no(yes.size()), began(yes.size());
    fact_recurrence_kernels().log_odds(to(9, b) + past - width, width, yes.data(), no.data());
    float later = 0.0f;
    for (size_t j = 0; j < began.size(); ++j) {
      const size_t at = began.size() - 1 - j;
      began[j] = -later - yes[at];
      later += no[at];
    }
    Buffer work(static_cast<size_t>(3 * width * count));
    const FactValues values{ints(in_[5]), in_[6].data<uint32_t>(), ints(in_[7]), in_[5].shape(0)};
    const int64_t newest = (past - 1) * count;
    const FactPlace place = fact_place(values, began.data(), to<int32_t>(10, b) + newest, to(11, b) + newest,
                                       count, width, now, scale_, work.data());
    float log_sum = 0.0f;
    fact_memory_kernels().positions(place, to(1, b), to(2, b), &null_inside_, &log_sum);
    *to(2, b) = std::min(*to(2, b), 1.0f);
  }

  const FactWeights& w_;
  const Arrays& in_;
  int64_t dim_;
  int64_t hidden_;
  int64_t key_dim_;
  FactScorer scorer_;
  Buffer ones_;
  Buffer shrink_;
  Arrays out_;
  float scale_[6];
  Buffer logs_;  // of the hits, before they are limited for the state
  float strength_ = 0.0f;
  float age_ = 0.0f;
  float cosine_ = 0.0f;
  float null_inside_ = 0.0f;
};

}  // namespace

FactWeights fact_weights(const Arrays& arrays, uint32_t hash_base) {
  constexpr size_t count = 25;
  require(arrays.size() == count, kOp, "wrong number of weights, given ", arrays.size(), ", allowed: ", count,
          ".");
  const Arrays a = ready(arrays);
  FactWeights w{a[0],  a[1],  a[2],  a[3],  a[4],  a[5],  a[6],  a[7],     a[8],
                a[9],  a[10], a[11], a[12], a[13], a[14], a[15], a[16],    a[17],
                a[18], a[19], a[20], a[21], a[22], a[23], a[24], hash_base};
  require_array("byte_embedding", w.byte_embedding, {257, -1});
  require_array("gate_hidden", w.gate_hidden, {3, -1});
  require_array("gram_in", w.gram_in, {-1, kGrams * w.byte_embedding.shape(1)});
  require_array("hit_before", w.hit_before, {-1, w.gram_in.shape(1)});
  const int dim = w.gate_hidden.shape(1), hidden = w.gram_in.shape(0);
  require_array("start_in", w.start_in, {-1, dim + 2});
  require_array("value_embedding", w.value_embedding, {-1, kFactBytes});
  require_array("read_out", w.read_out, {-1, dim, w.value_embedding.shape(0)});
  const int reads = w.read_out.shape(0);
  require_array("gram_bias", w.gram_bias, {hidden});
  require_array("gram_out", w.gram_out, {-1, hidden});
  require_array("gate_gram", w.gate_gram, {3, hidden});
  require_array("gate_bias", w.gate_bias, {3});
  require_array("score_scale", w.score_scale, {5});
  require_array("hit_hidden", w.hit_hidden, {1, dim});
  require_array("hit_out", w.hit_out, {1, w.hit_before.shape(0)});
  require_array("start_out", w.start_out, {1, w.start_in.shape(0)});
  require_array("position_scale", w.position_scale, {5});
  require_array("read_gate", w.read_gate, {reads, dim + kFeatures});
  require_array("read_gate_bias", w.read_gate_bias, {reads});
  for (const auto* x : {&w.null_score, &w.hit_bias, &w.start_bias, &w.copy_scale})
    require_array("a scalar", *x, {});
  require_array("fold", w.fold, {257}, mx::int32);
  require_array("byte_hash", w.byte_hash, {257}, mx::uint32);
  require_array("word", w.word, {257}, mx::int32);
  return w;
}

Arrays fact_address_step(const FactWeights& w, const Arrays& inputs) {
  require(inputs.size() == 17, kOp, "wrong number of inputs, given ", inputs.size(), ", allowed: 17.");
  const Arrays in = ready(inputs);
  require_array("h", in[0], {-1, 1, w.gate_hidden.shape(1)});
  const int batch = in[0].shape(0);
  require_array("tokens", in[1], {batch, 1}, mx::int32);
  require_array("keys", in[2], {-1, -1}, mx::int32);
  const int rows = in[2].shape(0);
  require_array("values", in[5], {rows, -1}, mx::int32);
  const int width = in[5].shape(1);
  require_array("key_length", in[3], {rows}, mx::int32);
  require_array("key_hash", in[4], {rows}, mx::uint32);
  require_array("value_context", in[6], {rows, width}, mx::uint32);
  require_array("value_length", in[7], {rows}, mx::int32);
  require_array("bags", in[8], {rows, w.gram_out.shape(0)});
  require_array("window", in[9], {batch, -1}, mx::int32);
  require_array("bag", in[10], {batch, w.gram_out.shape(0)});
  require_array("hit_row", in[11], {batch, -1}, mx::int32);
  const int slots = in[11].shape(1);
  require_array("hit_log", in[12], {batch, slots});
  require_array("hit_age", in[13], {batch, slots});
  require_array("start", in[14], {batch, -1});
  const int past = in[14].shape(1);
  require_array("rows", in[15], {batch, past, -1}, mx::int32);
  require_array("log_weights", in[16], {batch, past, in[15].shape(2)});
  require(rows >= 1 && slots >= 1 && in[15].shape(2) >= 1 && width <= past &&
              in[2].shape(1) + kGrams <= in[9].shape(1),
          kOp, "the table does not fit the state: keys of ", in[2].shape(1), " and values of ", width,
          " bytes, a window of ", in[9].shape(1), " and a past of ", past, ".");
  return Address(w, in).run();
}

mx::array fact_read_step(const FactWeights& w, const Arrays& inputs, int index) {
  require(inputs.size() == 4 && index >= 0 && index < w.read_out.shape(0), kOp, "no such read: ", index, ".");
  const Arrays in = ready(inputs);
  const int64_t dim = w.gate_hidden.shape(1), value_dim = w.value_embedding.shape(0);
  require_array("h", in[0], {-1, 1, w.gate_hidden.shape(1)});
  const int batch = in[0].shape(0);
  require_array("readout", in[1], {batch, 1, w.value_embedding.shape(0)});
  require_array("inside", in[2], {batch, 1});
  require_array("features", in[3], {batch, 1, kFeatures});
  mx::array out = make_like(in[0]);
  const Buffer ones(static_cast<size_t>(dim), 1.0f);
  Buffer seen(static_cast<size_t>(dim + kFeatures)), value(static_cast<size_t>(value_dim));
  for (int64_t b = 0; b < batch; ++b) {
    const float* h = floats(in[0]) + b * dim;
    normalize(h, ones, kEps, seen.data());
    for (int64_t i = 0; i < kFeatures; ++i)
      seen[static_cast<size_t>(dim + i)] = 4.0f * floats(in[3])[b * kFeatures + i];
    float gate = 0.0f;
    product(seen.data(), floats(w.read_gate) + index * (dim + kFeatures), 1, dim + kFeatures, &gate);
    const float share = sigmoid(gate + floats(w.read_gate_bias)[index]) * floats(in[2])[b];
    for (int64_t i = 0; i < value_dim; ++i)
      value[static_cast<size_t>(i)] = share * floats(in[1])[b * value_dim + i];
    float* to = floats(out) + b * dim;
    product(value.data(), floats(w.read_out) + index * dim * value_dim, dim, value_dim, to);
    for (int64_t i = 0; i < dim; ++i) to[i] += h[i];
  }
  return out;
}

mx::array fact_copy_step(const FactWeights& w, const Arrays& inputs) {
  require(inputs.size() == 3, kOp, "wrong number of inputs, given ", inputs.size(), ", allowed: 3.");
  const Arrays in = ready(inputs);
  require_array("logits", in[0], {-1, 1, kFactBytes});
  require_array("copy", in[1], in[0].shape());
  require_array("inside", in[2], {in[0].shape(0), 1});
  mx::array out = make_like(in[0]);
  for (int64_t i = 0; i < static_cast<int64_t>(out.size()); ++i) {
    const float inside = floats(in[2])[i / kFactBytes];
    floats(out)[i] = floats(in[0])[i] + floats(w.copy_scale)[0] * floats(in[1])[i] * inside;
  }
  return out;
}

}  // namespace ghost
