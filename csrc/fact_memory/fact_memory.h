#pragma once

#include <utility>

#include "common/primitive.h"
#include "fact_memory/fact_memory_kernels.h"

namespace ghost {

// How a fact memory is addressed: which stored key did the text just spell out, which facts are likely, and
// which of their bytes comes next. Floats are computed and returned in float32; integer inputs are int32 but
// for key_hash, byte_hash and value_context, which are uint32. Row 0 of the table is the null fact; its key
// has length 0, and so have padding rows.

// The longest key that ended right before each byte, as row and length (batch, seqlen) int32, both 0 for
// none. folded (batch, history + seqlen) bytes, 256 for none; keys (rows, width) right-aligned; key_length,
// key_hash (rows,); byte_hash (257,), of which and hash_base key_hash is made; word (257,), nonzero for bytes
// of words, inside which no key may begin or end. No gradient.
std::pair<mx::array, mx::array> fact_match(const mx::array& folded, const mx::array& keys,
                                           const mx::array& key_length, const mx::array& key_hash,
                                           const mx::array& byte_hash, const mx::array& word, int history,
                                           uint32_t hash_base, mx::StreamOrDevice s = {});

// Scores of all rows, and the best of them. bag (batch, seqlen, dim), keys (rows, dim), key_length (rows,),
// hit_row and hit_log (batch, seqlen, slots), log_scale (5,), null_score (). With n(x) = |x|^2 + 0.1,
//   cosine = bag . key / sqrt(n(bag) n(key)),  coverage = min(bag . key / n(key), 1.2),
//   strength = the largest exp(hit_log) of the row's hits, a = exp(log_scale),
//   score = a0 cosine + a1 coverage + (a2 + a3 min(length, 24) / 24 + a4 cosine) strength.
// The null fact scores null_score, padding -1e4. Returns scores (batch, seqlen, rows), the largest cosine,
// zero counted, (batch, seqlen), candidates (batch, seqlen, top_k + 1), which are the null fact and the
// top_k best others, their log softmax, and the softmax's log norm (batch, seqlen).
Arrays fact_scores(const mx::array& bag, const mx::array& keys, const mx::array& key_length,
                   const mx::array& hit_row, const mx::array& hit_log, const mx::array& log_scale,
                   const mx::array& null_score, int top_k, mx::StreamOrDevice s = {});

// What comes next if an answer began j bytes ago with one of that byte's candidates: began (batch, seqlen,
// width) log probabilities, candidates and log_weights (batch, past + seqlen, K), past >= width - 1; folded
// (batch, >= seqlen + 3) bytes; scale (5,); values, value_context (rows, width), value_length (rows,). For
// row = candidates[t - j, k] and j < value_length[row]
//   score = scale[0] max(began[t, j], -12) + log_weights[t - j, k] + sum of scale[1..n],
// n the number of bytes, up to four, in which the text and value_context[row, j] agree. Returns copy (batch,
// seqlen, 256), the softmax of the scores by values[row, j]; inside (batch, seqlen), the sum of exp(began +
// log_weights), at most 1; and the share of k = 0 in that sum. The null fact has a value, so there is always
// a position.
Arrays fact_positions(const mx::array& began, const mx::array& candidates, const mx::array& log_weights,
                      const mx::array& folded, const mx::array& scale, const mx::array& values,
                      const mx::array& value_context, const mx::array& value_length,
                      mx::StreamOrDevice s = {});

// The composed forms. Inputs and outputs are those of the primitives.
Arrays composed_fact_match(const Arrays& inputs, int history, uint32_t hash_base, mx::Stream s);
Arrays composed_fact_scores(const Arrays& inputs, int top_k, mx::Stream s);
Arrays composed_fact_positions(const Arrays& inputs, mx::Stream s);

// Inputs folded, keys, key_length, key_hash, byte_hash, word; outputs row, length.
class FactMatch : public Primitive {
 public:
  FactMatch(mx::Stream stream, ComposedForm composed, int history, uint32_t hash_base)
      : Primitive(stream, std::move(composed)), history_(history), hash_base_(hash_base) {}

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& it = static_cast<const FactMatch&>(other);
    return history_ == it.history_ && hash_base_ == it.hash_base_;
  }
  DEFINE_NAME(FactMatch)

 private:
  int history_;
  uint32_t hash_base_;
};

// Inputs dot (bag keys^T), bag, keys, key_length, hit_row, hit_log, log_scale, null_score; outputs scores,
// cosine, candidates, log_weights, log_norm.
class FactScores : public Primitive {
 public:
  FactScores(mx::Stream stream, ComposedForm composed, int top_k)
      : Primitive(stream, std::move(composed)), top_k_(top_k) {}

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override {
    return top_k_ == static_cast<const FactScores&>(other).top_k_;
  }
  DEFINE_NAME(FactScores)

 private:
  int top_k_;
};

// Inputs of FactScores, its candidates and log_weights, then dscores, dcosine, dlog_weights, dlog_norm;
// outputs ddot, dbag, dkeys, dhit_log, dlog_scale, dnull_score, the first without what flows through dot.
class FactScoresGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  // top_k is a shape of the inputs.
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(FactScoresGrad)
};

// Inputs began, candidates, log_weights, folded, scale, values, value_context, value_length; outputs copy,
// inside, null_inside, and the log of the softmax's sum, which only the gradient reads.
class FactPositions : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(FactPositions)
};

// Inputs of FactPositions, its copy, inside and log sum, then dcopy, dinside, dnull_inside; outputs dbegan,
// dlog_weights, dscale.
class FactPositionsGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[0].shape(), inputs[2].shape(), inputs[4].shape()};
  }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(FactPositionsGrad)
};

}  // namespace ghost
