#include "fact_recurrence/fact_recurrence.h"

namespace ghost {
namespace {

Arrays composed_vjp(const ComposedForm& form, const Arrays& primals, const Arrays& cotangents) {
  return mx::vjp(form, primals, cotangents).second;
}

ComposedForm decayed_sum_form(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays { return {composed_decayed_sum(in[0], in[1], in[2], s)}; };
}

ComposedForm decayed_sum_grad_form(mx::Stream s) {
  return [s](const Arrays& in) { return composed_vjp(decayed_sum_form(s), {in[0], in[1], in[2]}, {in[4]}); };
}

ComposedForm began_ago_form(int past, int width, mx::Stream s) {
  return [=](const Arrays& in) -> Arrays { return {composed_began_ago(in[0], past, width, s)}; };
}

ComposedForm last_events_form(mx::Stream s) {
  return [s](const Arrays& in) { return composed_last_events(in, s); };
}

// The strengths and ages are linear in what is differentiated, so zeros stand for it.
ComposedForm last_events_grad_form(mx::Stream s) {
  return [s](const Arrays& in) {
    const auto& row = in[0];
    const mx::Shape slots{row.shape(0), in[1].shape(2)};
    const auto per_byte = mx::zeros(row.shape(), mx::float32, s);
    const auto per_slot = mx::zeros(slots, mx::float32, s);
    const auto of_floats = [&](const Arrays& v) -> Arrays {
      const Arrays out =
          composed_last_events({row, v[0], v[1], mx::zeros(slots, mx::int32, s), v[2], v[3]}, s);
      return {out[1], out[2]};
    };
    return composed_vjp(of_floats, {per_byte, per_byte, per_slot, per_slot}, {in[1], in[2]});
  };
}

void require_events(const char* op, const mx::array& row, const mx::array& weight, const mx::array& log_keep,
                    const mx::array& state_row, const mx::array& state_log, const mx::array& state_age) {
  for (const auto* x : {&row, &state_row}) {
    require(mx::issubdtype(x->dtype(), mx::integer), op, "rows have the wrong dtype, given ", x->dtype(),
            ", allowed: integers.");
  }
  require_shape(op, "row", row, {-1, -1}, "(batch, seqlen)");
  require_io_dtype(op, "weight", weight);
  require_io_dtype(op, "log_keep", log_keep);
  require_shape(op, "weight", weight, row.shape(), "that of row");
  require_shape(op, "log_keep", log_keep, row.shape(), "that of row");
  require_shape(op, "state_row", state_row, {row.shape(0), -1}, "(batch, slots)");
  require(state_row.shape(1) >= 1, op, "state_row has no slots, allowed: at least one.");
  require_io_dtype(op, "state_log", state_log);
  require_io_dtype(op, "state_age", state_age);
  require_shape(op, "state_log", state_log, state_row.shape(), "that of state_row");
  require_shape(op, "state_age", state_age, state_row.shape(), "that of state_row");
}

}  // namespace

mx::array decayed_sum(const mx::array& x, const mx::array& log_keep, const mx::array& initial,
                      mx::StreamOrDevice stream) {
  constexpr const char* op = "decayed_sum";
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype(op, "x", x);
  require_io_dtype(op, "log_keep", log_keep);
  require_io_dtype(op, "initial", initial);
  require_shape(op, "x", x, {-1, -1, -1}, "(batch, seqlen, dim)");
  require_shape(op, "log_keep", log_keep, {x.shape(0), x.shape(1)}, "(batch, seqlen)");
  require_shape(op, "initial", initial, {x.shape(0), x.shape(2)}, "(batch, dim)");
  const Arrays inputs{dense_float32(x, s), dense_float32(log_keep, s), dense_float32(initial, s)};
  const ComposedForm composed = decayed_sum_form(s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<DecayedSum>(s, composed), inputs, {mx::float32})[0];
}

Arrays DecayedSum::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays& outputs) {
  const mx::Stream s = stream();
  const Arrays inputs{primals[0], primals[1], primals[2], outputs[0], dense_float32(cotangents[0], s)};
  const auto gradient = std::make_shared<DecayedSumGrad>(s, decayed_sum_grad_form(s));
  return pick(outputs_of(gradient, inputs, {mx::float32, mx::float32, mx::float32}), argnums);
}

mx::array began_ago(const mx::array& start_logit, int length, int width, mx::StreamOrDevice stream) {
  constexpr const char* op = "began_ago";
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype(op, "start_logit", start_logit);
  require_shape(op, "start_logit", start_logit, {-1, -1}, "(batch, past + length)");
  const int past = start_logit.shape(1) - length;
  require(length >= 0 && width >= 1 && past >= width - 1, op, "length or width is out of range, given ",
          length, " and ", width, " of ", start_logit.shape(1),
          " columns, allowed: length >= 0, width >= 1 and at least length + width - 1 columns.");
  const Arrays inputs{dense_float32(start_logit, s)};
  const ComposedForm composed = began_ago_form(past, width, s);
  if (use_composed(s, Kernels::cpu)) return composed(inputs)[0];
  return outputs_of(std::make_shared<BeganAgo>(s, composed, past, width), inputs, {mx::float32})[0];
}

Arrays BeganAgo::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>&,
                     const Arrays&) {
  const mx::Stream s = stream();
  const ComposedForm composed = [past = past_, width = width_, s](const Arrays& in) {
    return composed_vjp(began_ago_form(past, width, s), {in[0]}, {in[1]});
  };
  return outputs_of(std::make_shared<BeganAgoGrad>(s, composed),
                    {primals[0], dense_float32(cotangents[0], s)}, {mx::float32});
}

std::tuple<mx::array, mx::array, mx::array> last_events(const mx::array& row, const mx::array& weight,
                                                        const mx::array& log_keep, const mx::array& state_row,
                                                        const mx::array& state_log,
                                                        const mx::array& state_age,
                                                        mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_events("last_events", row, weight, log_keep, state_row, state_log, state_age);
  const Arrays inputs{dense_as(row, mx::int32, s), dense_float32(weight, s),
                      dense_float32(log_keep, s),  dense_as(state_row, mx::int32, s),
                      dense_float32(state_log, s), dense_float32(state_age, s)};
  const ComposedForm composed = last_events_form(s);
  const Arrays out = use_composed(s, Kernels::cpu)
                         ? composed(inputs)
                         : outputs_of(std::make_shared<LastEvents>(s, composed), inputs,
                                      {mx::int32, mx::float32, mx::float32});
  return {out[0], out[1], out[2]};
}

std::vector<mx::Shape> LastEvents::output_shapes(const Arrays& inputs) {
  const mx::Shape shape{inputs[0].shape(0), inputs[0].shape(1), inputs[3].shape(1)};
  return {shape, shape, shape};
}

Arrays LastEvents::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays&) {
  const mx::Stream s = stream();
  const Arrays inputs{primals[0], dense_float32(cotangents[1], s), dense_float32(cotangents[2], s)};
  const auto gradient = std::make_shared<LastEventsGrad>(s, last_events_grad_form(s));
  const Arrays d = outputs_of(gradient, inputs, {mx::float32, mx::float32, mx::float32, mx::float32});
  return pick({mx::zeros_like(primals[0], s), d[0], d[1], mx::zeros_like(primals[3], s), d[2], d[3]},
              argnums);
}

std::vector<mx::Shape> LastEventsGrad::output_shapes(const Arrays& inputs) {
  const mx::Shape bytes = inputs[0].shape();
  const mx::Shape slots{bytes[0], inputs[1].shape(2)};
  return {bytes, bytes, slots, slots};
}

}  // namespace ghost
