#include "common/composed.h"

namespace ghost {
namespace {

mx::array head(const mx::array& cu, mx::Stream s) { return mx::slice(cu, {0}, {cu.shape(0) - 1}, s); }
mx::array tail(const mx::array& cu, mx::Stream s) { return mx::slice(cu, {1}, {cu.shape(0)}, s); }

// Boundaries as the kernels take them: never decreasing, within the rows there are.
mx::array clamped(const mx::array& cu, int total, mx::Stream s) {
  return mx::cummax(mx::clip(cu, mx::array(0), mx::array(total), s), 0, false, true, s);
}

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

SequenceIndex::SequenceIndex(const mx::array& cu_seqlens, int total, mx::Stream s)
    : SequenceIndex(Clamped{clamped(mx::stop_gradient(cu_seqlens, s), total, s)}, total, s) {}

SequenceIndex::SequenceIndex(const Clamped& boundaries, int total, mx::Stream s)
    : starts(head(boundaries.cu, s)),
      lengths(mx::subtract(tail(boundaries.cu, s), starts, s)),
      sequence(sequence_of(boundaries.cu, total, s)),
      start(sequence),
      position(sequence),
      inside(inside_of(boundaries.cu, sequence, total, s)) {
  sequence = mx::where(inside, sequence, mx::array(0), s);
  start = mx::take(boundaries.cu, sequence, 0, s);
  position = mx::subtract(mx::arange(total, mx::int32, s), start, s);
}

}  // namespace ghost
