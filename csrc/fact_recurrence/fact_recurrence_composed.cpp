#include "fact_recurrence/fact_recurrence.h"

namespace ghost {
namespace {

constexpr int kChunk = 32;

mx::array last(const mx::array& x, int axis, mx::Stream s) {
  return mx::squeeze(mx::split(x, mx::Shape{x.shape(axis) - 1}, axis, s)[1], axis, s);
}

mx::array without_last(const mx::array& x, mx::Stream s) {  // of axis 1
  return mx::split(x, mx::Shape{x.shape(1) - 1}, 1, s)[0];
}

mx::array reversed(const mx::array& x, mx::Stream s) {  // along axis 1
  const int n = x.shape(1);
  return mx::take(x, mx::subtract(mx::array(n - 1), mx::arange(n, mx::int32, s), s), 1, s);
}

mx::array softplus(const mx::array& x, mx::Stream s) { return mx::logaddexp(x, mx::array(0.0f), s); }

}  // namespace

// Inside chunks it is a triangular matrix product, and the chunk ends form a sequence of the same kind.
// Every exponent is a sum of log keep-gates, hence <= 0: nothing overflows, and no decay is ever divided out.
mx::array composed_decayed_sum(mx::array x, mx::array log_keep, const mx::array& initial, mx::Stream s) {
  const int batch = x.shape(0);
  const int seqlen = x.shape(1);
  const int dim = x.shape(2);
  if (x.size() == 0) return x;
  const auto column = [&](const mx::array& v) { return mx::expand_dims(v, -1, s); };
  if (seqlen <= kChunk) {
    const auto total = mx::cumsum(log_keep, 1, false, true, s);
    const auto lower = mx::tril(mx::ones({seqlen, seqlen}, mx::bool_, s), 0, s);
    const auto exponent = mx::subtract(column(total), mx::expand_dims(total, 1, s), s);
    const auto decay = mx::exp(mx::where(lower, exponent, mx::array(-1e4f), s), s);
    return mx::add(mx::matmul(decay, x, s),
                   mx::multiply(column(mx::exp(total, s)), mx::expand_dims(initial, 1, s), s), s);
  }
  const int chunks = (seqlen + kChunk - 1) / kChunk;
  const int tail = chunks * kChunk - seqlen;
  const auto zero = mx::array(0.0f);
  x = mx::pad(x, {{0, 0}, {0, tail}, {0, 0}}, zero, "constant", s);
  log_keep = mx::pad(log_keep, {{0, 0}, {0, tail}}, zero, "constant", s);
  const auto keep = mx::reshape(log_keep, {batch, chunks, kChunk}, s);
  const auto local = mx::reshape(composed_decayed_sum(mx::reshape(x, {batch * chunks, kChunk, dim}, s),
                                                      mx::reshape(keep, {batch * chunks, kChunk}, s),
                                                      mx::zeros({batch * chunks, dim}, mx::float32, s), s),
                                 {batch, chunks, kChunk, dim}, s);
  const auto carry = composed_decayed_sum(last(local, 2, s), mx::sum(keep, -1, false, s), initial, s);
  const auto before = mx::concatenate({mx::expand_dims(initial, 1, s), without_last(carry, s)}, 1, s);
  const auto kept = mx::exp(mx::cumsum(keep, 2, false, true, s), s);
  const auto out = mx::add(local, mx::multiply(column(kept), mx::expand_dims(before, 2, s), s), s);
  return mx::slice(mx::reshape(out, {batch, chunks * kChunk, dim}, s), {0, 0, 0}, {batch, seqlen, dim}, s);
}

mx::array composed_began_ago(const mx::array& start_logit, int past, int width, mx::Stream s) {
  const int length = start_logit.shape(1) - past;
  const auto now = mx::expand_dims(mx::arange(past, past + length, s), 1, s);
  const auto index = mx::subtract(now, mx::arange(width, mx::int32, s), s);
  if (index.size() == 0 || start_logit.size() == 0) {
    return mx::zeros({start_logit.shape(0), length, width}, mx::float32, s);
  }
  const auto window = mx::take(start_logit, index, 1, s);
  const auto later = mx::cumsum(softplus(window, s), -1, false, false, s);
  return mx::negative(mx::add(later, softplus(mx::negative(window, s), s), s), s);
}

Arrays composed_last_events(const Arrays& in, mx::Stream s) {
  const auto& [row, weight, log_keep] = std::tie(in[0], in[1], in[2]);
  const auto& [state_row, state_log, state_age] = std::tie(in[3], in[4], in[5]);
  const int batch = row.shape(0);
  const int seqlen = row.shape(1);
  const int slots = state_row.shape(1);
  const mx::Shape shape{batch, seqlen, slots};
  if (batch * seqlen == 0) {
    const auto none = mx::zeros(shape, mx::float32, s);
    return {mx::zeros(shape, mx::int32, s), none, none};
  }
  const auto total = mx::cumsum(log_keep, 1, false, true, s);
  const auto time = mx::arange(seqlen, mx::float32, s);
  // The old events stand, oldest first, in front of the text; position p >= slots is byte p - slots.
  const auto rows = mx::concatenate({reversed(state_row, s), row}, 1, s);
  const auto logs = mx::concatenate({reversed(state_log, s), mx::subtract(weight, total, s)}, 1, s);
  const auto old = mx::subtract(mx::negative(reversed(state_age, s), s), mx::array(1.0f), s);
  const auto born = mx::concatenate({old, mx::broadcast_to(time, row.shape(), s)}, 1, s);
  const auto position = mx::broadcast_to(mx::arange(slots + seqlen, mx::int32, s), rows.shape(), s);
  const auto event =
      mx::logical_or(mx::not_equal(rows, mx::array(0), s), mx::less(position, mx::array(slots), s), s);
  const auto newest = mx::cummax(mx::where(event, position, mx::array(0), s), 1, false, true, s);
  const auto before = mx::pad(without_last(newest, s), {{0, 0}, {1, 0}}, mx::array(0), "constant", s);
  Arrays found{mx::slice(newest, {0, slots}, {batch, slots + seqlen}, s)};
  for (int i = 1; i < slots; ++i) found.push_back(mx::take_along_axis(before, found.back(), 1, s));
  const auto index = mx::stop_gradient(mx::reshape(mx::stack(found, -1, s), {batch, seqlen * slots}, s), s);
  const auto at = [&](const mx::array& x) {
    return mx::reshape(mx::take_along_axis(x, index, 1, s), shape, s);
  };
  return {at(rows), mx::add(at(logs), mx::expand_dims(total, -1, s), s),
          mx::subtract(mx::expand_dims(time, -1, s), at(born), s)};
}

}  // namespace ghost
