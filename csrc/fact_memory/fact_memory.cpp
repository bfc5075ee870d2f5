#include "fact_memory/fact_memory.h"

#include "dense_matmul/dense_matmul.h"

namespace ghost {
namespace {

const std::vector<mx::Dtype> kScoreTypes{mx::float32, mx::float32, mx::int32, mx::float32, mx::float32};

ComposedForm scores_form(int top_k, mx::Stream s) {
  return [=](const Arrays& in) { return composed_fact_scores(in, top_k, s); };
}

ComposedForm positions_form(mx::Stream s) {
  return [s](const Arrays& in) { return composed_fact_positions(in, s); };
}

// Same inputs and outputs as FactScoresGrad.
ComposedForm scores_grad_form(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const int top_k = in[8].shape(2) - 1;
    const auto of_floats = [&](const Arrays& v) -> Arrays {
      const Arrays out = composed_fact_scores({v[0], v[1], v[2], in[3], in[4], v[3], v[4], v[5]}, top_k, s);
      return {out[0], out[1], out[3], out[4]};
    };
    return mx::vjp(of_floats, {in[0], in[1], in[2], in[5], in[6], in[7]}, {in[10], in[11], in[12], in[13]})
        .second;
  };
}

// Same inputs and outputs as FactPositionsGrad.
ComposedForm positions_grad_form(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto of_floats = [&](const Arrays& v) -> Arrays {
      const Arrays out = composed_fact_positions({v[0], in[1], v[1], in[3], v[2], in[5], in[6], in[7]}, s);
      return {out[0], out[1], out[2]};
    };
    return mx::vjp(of_floats, {in[0], in[2], in[4]}, {in[11], in[12], in[13]}).second;
  };
}

void require_integers(const char* op, const char* name, const mx::array& x, const mx::Shape& shape,
                      const char* meaning) {
  require(mx::issubdtype(x.dtype(), mx::integer), op, name, " has the wrong dtype, given ", x.dtype(),
          ", allowed: integers.");
  require_shape(op, name, x, shape, meaning);
}

void require_floats(const char* op, const char* name, const mx::array& x, const mx::Shape& shape,
                    const char* meaning) {
  require_io_dtype(op, name, x);
  require_shape(op, name, x, shape, meaning);
}

mx::array integers(const mx::array& x, mx::Stream s) { return dense_as(x, mx::int32, s); }
mx::array unsigned_integers(const mx::array& x, mx::Stream s) { return dense_as(x, mx::uint32, s); }

}  // namespace

std::pair<mx::array, mx::array> fact_match(const mx::array& folded, const mx::array& keys,
                                           const mx::array& key_length, const mx::array& key_hash,
                                           const mx::array& byte_hash, const mx::array& word, int history,
                                           uint32_t hash_base, mx::StreamOrDevice stream) {
  constexpr const char* op = "fact_match";
  const mx::Stream s = mx::to_stream(stream);
  require_integers(op, "folded", folded, {-1, -1}, "(batch, history + seqlen)");
  require_integers(op, "keys", keys, {-1, -1}, "(rows, width)");
  const int rows = keys.shape(0);
  require(rows >= 1, op, "keys has no rows, allowed: at least that of the null fact.");
  require_integers(op, "key_length", key_length, {rows}, "(rows,)");
  require_integers(op, "key_hash", key_hash, {rows}, "(rows,)");
  require_integers(op, "byte_hash", byte_hash, {257}, "(257,)");
  require_shape(op, "word", word, {257}, "(257,)");
  require(history > keys.shape(1) && history <= folded.shape(1), op, "history is out of range, given ",
          history, ", allowed: over the key width ", keys.shape(1), ", at most the ", folded.shape(1),
          " columns of folded.");
  const Arrays inputs{integers(folded, s),
                      integers(keys, s),
                      integers(key_length, s),
                      unsigned_integers(key_hash, s),
                      unsigned_integers(byte_hash, s),
                      integers(word, s)};
  const ComposedForm composed = [=](const Arrays& in) {
    return composed_fact_match(in, history, hash_base, s);
  };
  const Arrays out = use_composed(s, Kernels::cpu)
                         ? composed(inputs)
                         : outputs_of(std::make_shared<FactMatch>(s, composed, history, hash_base), inputs,
                                      {mx::int32, mx::int32});
  return {out[0], out[1]};
}

Arrays FactMatch::vjp(const Arrays& primals, const Arrays&, const std::vector<int>& argnums, const Arrays&) {
  Arrays zeros;
  for (int i : argnums) zeros.push_back(mx::zeros_like(primals[static_cast<size_t>(i)], stream()));
  return zeros;
}

std::vector<mx::Shape> FactMatch::output_shapes(const Arrays& inputs) {
  const mx::Shape shape{inputs[0].shape(0), inputs[0].shape(1) - history_};
  return {shape, shape};
}

Arrays fact_scores(const mx::array& bag, const mx::array& keys, const mx::array& key_length,
                   const mx::array& hit_row, const mx::array& hit_log, const mx::array& log_scale,
                   const mx::array& null_score, int top_k, mx::StreamOrDevice stream) {
  constexpr const char* op = "fact_scores";
  const mx::Stream s = mx::to_stream(stream);
  require_floats(op, "bag", bag, {-1, -1, -1}, "(batch, seqlen, dim)");
  const int batch = bag.shape(0);
  const int seqlen = bag.shape(1);
  require_floats(op, "keys", keys, {-1, bag.shape(2)}, "(rows, dim)");
  const int rows = keys.shape(0);
  require(rows >= 1, op, "keys has no rows, allowed: at least that of the null fact.");
  require(top_k >= 0, op, "top_k is negative, given ", top_k, ".");
  require_integers(op, "key_length", key_length, {rows}, "(rows,)");
  require_integers(op, "hit_row", hit_row, {batch, seqlen, -1}, "(batch, seqlen, slots)");
  require_floats(op, "hit_log", hit_log, hit_row.shape(), "that of hit_row");
  require_floats(op, "log_scale", log_scale, {5}, "(5,)");
  require_floats(op, "null_score", null_score, {}, "()");
  const auto bag32 = dense_float32(bag, s);
  const auto keys32 = dense_float32(keys, s);
  const Arrays inputs{dense(dense_matmul(bag32, keys32, "float32", s), s),
                      bag32,
                      keys32,
                      integers(key_length, s),
                      integers(hit_row, s),
                      dense_float32(hit_log, s),
                      dense_float32(log_scale, s),
                      dense_float32(null_score, s)};
  const ComposedForm composed = scores_form(top_k, s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs);
  return outputs_of(std::make_shared<FactScores>(s, composed, top_k), inputs, kScoreTypes);
}

Arrays FactScores::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays& outputs) {
  const mx::Stream s = stream();
  Arrays inputs = primals;
  inputs.push_back(outputs[2]);
  inputs.push_back(outputs[3]);
  for (size_t i : {0, 1, 3, 4}) inputs.push_back(dense_float32(cotangents[i], s));
  const auto gradient = std::make_shared<FactScoresGrad>(s, scores_grad_form(s));
  const Arrays d = outputs_of(gradient, inputs, std::vector<mx::Dtype>(6, mx::float32));
  return pick(
      {d[0], d[1], d[2], mx::zeros_like(primals[3], s), mx::zeros_like(primals[4], s), d[3], d[4], d[5]},
      argnums);
}

std::vector<mx::Shape> FactScores::output_shapes(const Arrays& inputs) {
  const mx::Shape bytes{inputs[0].shape(0), inputs[0].shape(1)};
  const mx::Shape candidates{bytes[0], bytes[1], top_k_ + 1};
  return {inputs[0].shape(), bytes, candidates, candidates, bytes};
}

std::vector<mx::Shape> FactScoresGrad::output_shapes(const Arrays& in) {
  return {in[0].shape(), in[1].shape(), in[2].shape(), in[5].shape(), in[6].shape(), in[7].shape()};
}

Arrays fact_positions(const mx::array& began, const mx::array& candidates, const mx::array& log_weights,
                      const mx::array& folded, const mx::array& scale, const mx::array& values,
                      const mx::array& value_context, const mx::array& value_length,
                      mx::StreamOrDevice stream) {
  constexpr const char* op = "fact_positions";
  const mx::Stream s = mx::to_stream(stream);
  require_floats(op, "began", began, {-1, -1, -1}, "(batch, seqlen, width)");
  const int batch = began.shape(0);
  const int seqlen = began.shape(1);
  const int width = began.shape(2);
  require_integers(op, "candidates", candidates, {batch, -1, -1}, "(batch, past + seqlen, K)");
  require(width >= 1 && candidates.shape(1) >= seqlen + width - 1 && candidates.shape(2) >= 1, op,
          "candidates has the wrong shape, given ", shape_text(candidates.shape()),
          ", allowed: (batch, past + seqlen, K) with past at least width - 1 = ", width - 1,
          " and K at least 1.");
  require_floats(op, "log_weights", log_weights, candidates.shape(), "that of candidates");
  require_integers(op, "folded", folded, {batch, -1}, "(batch, at least seqlen + 3)");
  require(folded.shape(1) >= seqlen + 3, op, "folded has too few columns, given ", folded.shape(1),
          ", allowed: at least seqlen + 3 = ", seqlen + 3, ".");
  require_floats(op, "scale", scale, {5}, "(5,)");
  require_integers(op, "values", values, {-1, width}, "(rows, width)");
  require(values.shape(0) >= 1, op, "values has no rows, allowed: at least that of the null fact.");
  require_integers(op, "value_context", value_context, values.shape(), "that of values");
  require_integers(op, "value_length", value_length, {values.shape(0)}, "(rows,)");
  const Arrays inputs{dense_float32(began, s),
                      integers(candidates, s),
                      dense_float32(log_weights, s),
                      integers(folded, s),
                      dense_float32(scale, s),
                      integers(values, s),
                      unsigned_integers(value_context, s),
                      integers(value_length, s)};
  const ComposedForm composed = positions_form(s);
  Arrays out = use_composed(s, Kernels::cpu) ? composed(inputs)
                                             : outputs_of(std::make_shared<FactPositions>(s, composed),
                                                          inputs, std::vector<mx::Dtype>(4, mx::float32));
  out.pop_back();
  return out;
}

Arrays FactPositions::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                          const Arrays& outputs) {
  const mx::Stream s = stream();
  Arrays inputs = primals;
  for (size_t i : {0, 1, 3}) inputs.push_back(outputs[i]);
  for (size_t i : {0, 1, 2}) inputs.push_back(dense_float32(cotangents[i], s));
  const auto gradient = std::make_shared<FactPositionsGrad>(s, positions_grad_form(s));
  const Arrays d = outputs_of(gradient, inputs, std::vector<mx::Dtype>(3, mx::float32));
  Arrays all;
  for (const auto& primal : primals) all.push_back(mx::zeros_like(primal, s));
  all[0] = d[0];
  all[2] = d[1];
  all[4] = d[2];
  return pick(all, argnums);
}

std::vector<mx::Shape> FactPositions::output_shapes(const Arrays& inputs) {
  const mx::Shape bytes{inputs[0].shape(0), inputs[0].shape(1)};
  return {{bytes[0], bytes[1], kFactBytes}, bytes, bytes, bytes};
}

}  // namespace ghost
