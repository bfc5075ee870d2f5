#pragma once

#include <tuple>

#include "common/primitive.h"

namespace ghost {

// The recurrences of a fact memory. Floats are computed and returned in float32, sequences are independent.

// s[t] = exp(log_keep[t]) s[t-1] + x[t] for x (batch, seqlen, dim), log_keep (batch, seqlen) and s[-1] =
// initial (batch, dim). Returns s, like x.
mx::array decayed_sum(const mx::array& x, const mx::array& log_keep, const mx::array& initial,
                      mx::StreamOrDevice s = {});

// log P(the last start was exactly j bytes ago), (batch, length, width), where byte s of start_logit (batch,
// past + length) is a start with probability sigmoid(start_logit[s]); past >= width - 1:
//   out[t, j] = log sigmoid(start[t - j]) + sum over t - j < s <= t of log(1 - sigmoid(start[s])).
mx::array began_ago(const mx::array& start_logit, int length, int width, mx::StreamOrDevice s = {});

// The newest `slots` events at every byte, newest first: their rows (int32), log strengths and ages in bytes,
// (batch, seqlen, slots) each. A nonzero row (batch, seqlen) is an event of log strength weight; log_keep is
// added to all older ones at every byte. The states (batch, slots) are the events before.
std::tuple<mx::array, mx::array, mx::array> last_events(const mx::array& row, const mx::array& weight,
                                                        const mx::array& log_keep, const mx::array& state_row,
                                                        const mx::array& state_log,
                                                        const mx::array& state_age,
                                                        mx::StreamOrDevice s = {});

// The composed forms, from MLX's own operations on float32 and int32 inputs.
mx::array composed_decayed_sum(mx::array x, mx::array log_keep, const mx::array& initial, mx::Stream s);
mx::array composed_began_ago(const mx::array& start_logit, int past, int width, mx::Stream s);
Arrays composed_last_events(const Arrays& inputs, mx::Stream s);

// Inputs x, log_keep, initial; output y.
class DecayedSum : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(DecayedSum)
};

// Inputs x, log_keep, initial, y, dy; outputs dx, dlog_keep, dinitial. x is there for gradients of this.
class DecayedSumGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {inputs[0].shape(), inputs[1].shape(), inputs[2].shape()};
  }
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(DecayedSumGrad)
};

// Input start_logit; output (batch, columns - past, width).
class BeganAgo : public Primitive {
 public:
  BeganAgo(mx::Stream stream, ComposedForm composed, int past, int width)
      : Primitive(stream, std::move(composed)), past_(past), width_(width) {}

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override {
    return {{inputs[0].shape(0), inputs[0].shape(1) - past_, width_}};
  }
  bool is_equivalent(const mx::Primitive& other) const override {
    const auto& it = static_cast<const BeganAgo&>(other);
    return past_ == it.past_ && width_ == it.width_;
  }
  DEFINE_NAME(BeganAgo)

 private:
  int past_;
  int width_;
};

// Inputs start_logit, dy; output dstart_logit.
class BeganAgoGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override { return {inputs[0].shape()}; }
  // The widths are those of the inputs.
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(BeganAgoGrad)
};

// Inputs row, weight, log_keep, state_row, state_log, state_age; outputs rows, log strengths, ages.
class LastEvents : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(LastEvents)
};

// Inputs row, dlog, dage; outputs dweight, dlog_keep, dstate_log, dstate_age.
class LastEventsGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL_CPU
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(LastEventsGrad)
};

}  // namespace ghost
