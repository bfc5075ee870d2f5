#include <algorithm>
#include <cmath>
#include <vector>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "fact_memory/fact_memory.h"
#include "fact_memory/fact_memory_host.h"

namespace ghost {
namespace {

constexpr int64_t kTokens = 64;  // bytes of the text a task works on

const float* floats(const mx::array& x) { return x.data<float>(); }
float* floats(mx::array& x) { return x.data<float>(); }
const int32_t* ints(const mx::array& x) { return x.data<int32_t>(); }

using Buffer = std::vector<float>;
Buffer buffer(int64_t n) { return Buffer(static_cast<size_t>(n)); }

// fn(task, first byte, end) for pieces of `tokens` bytes.
template <class Fn>
void for_pieces(int64_t tokens, Fn fn) {
  parallel_for(ceil_div(tokens, kTokens),
               [&](int64_t i) { fn(i, i * kTokens, std::min(tokens, (i + 1) * kTokens)); });
}

// Adds `count` rows of n floats, in order.
void add_up(const Buffer& parts, int64_t count, int64_t n, float* total) {
  std::fill_n(total, n, 0.0f);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t j = 0; j < n; ++j) total[j] += parts[static_cast<size_t>(i * n + j)];
  }
}

FactValues values_of(const Arrays& in) {
  return {ints(in[5]), in[6].data<uint32_t>(), ints(in[7]), in[5].shape(0)};
}

// Positions of byte t of sequence b, as FactPositions gets them.
FactPlace place_of(const Arrays& in, const float* scale, int64_t b, int64_t t, float* work) {
  const int64_t seqlen = in[0].shape(1);
  const int64_t width = in[0].shape(2);
  const int64_t count = in[1].shape(2);
  const int64_t at = (b * in[1].shape(1) + in[1].shape(1) - seqlen + t) * count;
  const int32_t* newest = ints(in[3]) + (b + 1) * in[3].shape(1) - seqlen + t;
  return fact_place(values_of(in), floats(in[0]) + (b * seqlen + t) * width, ints(in[1]) + at,
                    floats(in[2]) + at, count, width, newest, scale, work);
}

}  // namespace

void FactMatch::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs,
               [history = history_, base = hash_base_](const Arrays& in, Arrays& out) {
                 const int64_t columns = in[0].shape(1);
                 const int64_t seqlen = columns - history;
                 const FactSpelling spelling{
                     ints(in[1]), ints(in[2]),    in[3].data<uint32_t>(), in[4].data<uint32_t>(),
                     ints(in[5]), in[1].shape(0), in[1].shape(1),         base};
                 for_pieces(in[0].shape(0) * seqlen, [&](int64_t, int64_t begin, int64_t end) {
                   for (int64_t i = begin; i < end; ++i) {
                     const int32_t* now = ints(in[0]) + i / seqlen * columns + history + i % seqlen;
                     const int32_t row = fact_match_at(spelling, now);
                     out[0].data<int32_t>()[i] = row;
                     out[1].data<int32_t>()[i] = row ? spelling.key_length[row] : 0;
                   }
                 });
               });
}

void FactScores::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const FactScorer scorer(floats(in[2]), ints(in[3]), in[2].shape(0), in[2].shape(1), floats(in[6]),
                            floats(in[7])[0]);
    const int64_t dim = in[2].shape(1);
    const int64_t rows = in[2].shape(0);
    const int64_t slots = in[4].shape(2);
    const int64_t count = out[2].shape(2);
    for_pieces(static_cast<int64_t>(out[1].size()), [&](int64_t, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const FactText text{floats(in[0]) + i * rows, floats(in[1]) + i * dim, ints(in[4]) + i * slots,
                            floats(in[5]) + i * slots, slots};
        const FactChoice choice{
            floats(out[0]) + i * rows,  floats(out[1]) + i, out[2].data<int32_t>() + i * count,
            floats(out[3]) + i * count, floats(out[4]) + i, count};
        scorer.choose(text, choice);
      }
    });
  });
}

void FactScoresGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const int64_t dim = in[2].shape(1);
    const int64_t rows = in[2].shape(0);
    const int64_t slots = in[4].shape(2);
    const int64_t count = in[8].shape(2);
    const FactScorer scorer(floats(in[2]), ints(in[3]), rows, dim, floats(in[6]), floats(in[7])[0]);
    const int64_t tokens = leading_size(in[4]);
    const int64_t pieces = ceil_div(tokens, kTokens);
    const int64_t width = rows + 6;  // gradients of key norms, of five scales and of the null score
    Buffer parts = buffer(pieces * width);
    for_pieces(tokens, [&](int64_t piece, int64_t begin, int64_t end) {
      Buffer dscores = buffer(rows);
      Buffer dstrength = buffer(slots);
      std::vector<FactHit> hits(static_cast<size_t>(slots));
      float* part = parts.data() + piece * width;
      for (int64_t i = begin; i < end; ++i) {
        // To the scores through the softmax of the candidates: log_weights = chosen - log_norm.
        std::copy_n(floats(in[10]) + i * rows, rows, dscores.data());
        float total = 0.0f;
        for (int64_t k = 0; k < count; ++k) total += floats(in[12])[i * count + k];
        for (int64_t k = 0; k < count; ++k) {
          const float p = std::exp(floats(in[9])[i * count + k]);
          const float d = floats(in[12])[i * count + k] + p * (floats(in[13])[i] - total);
          dscores[static_cast<size_t>(ints(in[8])[i * count + k])] += d;
        }
        const FactText text{floats(in[0]) + i * rows, floats(in[1]) + i * dim, ints(in[4]) + i * slots,
                            floats(in[5]) + i * slots, slots};
        const FactQuery query = scorer.query(text, hits.data());
        FactScoreGrads grads{dscores.data(),
                             floats(in[11])[i],
                             floats(out[0]) + i * rows,
                             part,
                             part + rows,
                             dstrength.data(),
                             0.0f};
        fact_memory_kernels().scores_grad(scorer.keys(), query, grads);
        if (!scorer.is_key(0)) part[rows + 5] += dscores[0];
        for (int64_t d = 0; d < dim; ++d) {
          floats(out[1])[i * dim + d] = 2.0f * grads.dbag_norm * floats(in[1])[i * dim + d];
        }
        std::fill_n(floats(out[3]) + i * slots, slots, 0.0f);
        for (int64_t h = 0; h < query.hit_count; ++h) {
          const FactHit& hit = query.hits[h];
          floats(out[3])[i * slots + hit.slot] = dstrength[static_cast<size_t>(h)] * hit.strength;
        }
      }
    });
    Buffer total = buffer(width);
    add_up(parts, pieces, width, total.data());
    for (int64_t i = 0; i < rows * dim; ++i) {
      floats(out[2])[i] = 2.0f * total[static_cast<size_t>(i / dim)] * floats(in[2])[i];
    }
    for (int64_t i = 0; i < 5; ++i) {
      floats(out[4])[i] = total[static_cast<size_t>(rows + i)] * std::exp(floats(in[6])[i]);
    }
    floats(out[5])[0] = total[static_cast<size_t>(rows + 5)];
  });
}

void FactPositions::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const int64_t seqlen = in[0].shape(1);
    float scale[6];
    fact_position_scale(floats(in[4]), scale);
    for_pieces(in[0].shape(0) * seqlen, [&](int64_t, int64_t begin, int64_t end) {
      Buffer work = buffer(3 * int64_t{in[0].shape(2)} * in[1].shape(2));
      for (int64_t i = begin; i < end; ++i) {
        const FactPlace place = place_of(in, scale, i / seqlen, i % seqlen, work.data());
        float* inside = floats(out[1]) + i;
        fact_memory_kernels().positions(place, floats(out[0]) + i * kFactBytes, inside, floats(out[2]) + i,
                                        floats(out[3]) + i);
        *inside = std::min(*inside, 1.0f);
      }
    });
  });
}

// By whole sequences: bytes share what the candidates of the bytes before them get.
void FactPositionsGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const int64_t batch = in[0].shape(0);
    const int64_t seqlen = in[0].shape(1);
    const int64_t width = in[0].shape(2);
    const int64_t count = in[1].shape(2);
    const int64_t all = in[1].shape(1) * count;
    float scale[6];
    fact_position_scale(floats(in[4]), scale);
    Buffer parts = buffer(6 * batch);
    parallel_for(batch, [&](int64_t b) {
      Buffer work = buffer(3 * width * count);
      std::fill_n(floats(out[1]) + b * all, all, 0.0f);
      for (int64_t t = 0; t < seqlen; ++t) {
        const int64_t i = b * seqlen + t;
        const FactPlace place = place_of(in, scale, b, t, work.data());
        const float dinside = floats(in[9])[i] < 1.0f ? floats(in[12])[i] : 0.0f;
        float* dlog_weights = floats(out[1]) + (place.log_weights - floats(in[2]));
        fact_memory_kernels().positions_grad(place, floats(in[8]) + i * kFactBytes, floats(in[10])[i],
                                             floats(in[11]) + i * kFactBytes, dinside, floats(in[13])[i],
                                             floats(out[0]) + i * width, dlog_weights, parts.data() + 6 * b);
      }
    });
    float total[6];
    add_up(parts, batch, 6, total);
    // A bonus is given from its number of agreeing bytes on.
    for (int i = 4; i > 1; --i) total[i] += total[i + 1];
    floats(out[2])[0] = total[0];
    for (int i = 1; i < 5; ++i) floats(out[2])[i] = total[i + 1];
  });
}

}  // namespace ghost
