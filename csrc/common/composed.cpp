#include "common/composed.h"

namespace ghost {
namespace {

mx::array head(const mx::array& cu, mx::Stream s) { return mx::slice(cu, {0}, {cu.shape(0) - 1}, s); }
mx::array tail(const mx::array& cu, mx::Stream s) { return mx::slice(cu, {1}, {cu.shape(0)}, s); }

// The sequence of every row: how many sequences end at or before it.
mx::array sequence_of(const mx::array& cu, int total, mx::Stream s) {
  auto rows = mx::expand_dims(mx::arange(total, mx::int32, s), 1, s);
  return mx::sum(mx::astype(mx::greater_equal(rows, tail(cu, s), s), mx::int32, s), 1, false, s);
}

mx::array inside_of(const mx::array& cu, const mx::array& sequence, int total, mx::Stream s) {
  auto started = mx::greater_equal(mx::arange(total, mx::int32, s), mx::slice(cu, {0}, {1}, s), s);
  return mx::logical_and(started, mx::less(sequence, mx::array(cu.shape(0) - 1), s), s);
}

}  // namespace

SequenceIndex::SequenceIndex(const mx::array& cu, int total, mx::Stream s)
    : starts(head(cu, s)),
      lengths(mx::subtract(tail(cu, s), head(cu, s), s)),
      sequence(sequence_of(cu, total, s)),
      start(sequence),
      position(sequence),
      inside(inside_of(cu, sequence, total, s)) {
  sequence = mx::where(inside, sequence, mx::array(0), s);
  start = mx::take(cu, sequence, 0, s);
  position = mx::subtract(mx::arange(total, mx::int32, s), start, s);
}

}  // namespace ghost
