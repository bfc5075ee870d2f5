#include <algorithm>

#include "common/composed.h"
#include "selective_scan/selective_scan.h"

namespace ghost {
namespace {

mx::array at(const Arrays& in, int index) { return in[static_cast<size_t>(index)]; }

// Shifts rows of axis 1 down by n, `fill` coming in.
mx::array shifted(const mx::array& x, int n, float fill, mx::Stream s) {
  mx::Shape head = x.shape();
  head[1] = n;
  mx::Shape stop = x.shape();
  stop[1] -= n;
  return mx::concatenate(
      {mx::full(head, fill, mx::float32, s), mx::slice(x, mx::Shape(x.ndim(), 0), stop, s)}, 1, s);
}

// All states of h[t] = decay[t] h[t - 1] + input[t] from h[-1] = 0 along axis 1, in log2(seqlen) passes.
// Decays are only ever multiplied: they may underflow to zero but nothing overflows.
mx::array scan_rows(mx::array decay, mx::array input, mx::Stream s) {
  const int seqlen = input.shape(1);
  for (int n = 1; n < seqlen; n *= 2) {
    input = mx::add(input, mx::multiply(decay, shifted(input, n, 0.0f, s), s), s);
    decay = mx::multiply(decay, shifted(decay, n, 1.0f, s), s);
  }
  return input;
}

mx::array softplus(const mx::array& x, mx::Stream s) {
  // The linear branch must not see an exponential that overflows: its gradient would be 0 * inf.
  const auto linear = mx::greater(x, mx::array(20.0f), s);
  const auto safe = mx::where(linear, mx::array(0.0f), x, s);
  return mx::where(linear, x, mx::log1p(mx::exp(safe, s), s), s);
}

// B or C as (batch, rows, dim, dstate) of its group.
mx::array per_channel(const mx::array& x, bool grouped, int dim, mx::Stream s) {
  if (!grouped) return mx::expand_dims(x, 2, s);
  return mx::repeat(x, dim / x.shape(2), 2, s);
}

struct Result {
  mx::array y;
  mx::array states;  // (rows, dim, dstate)
  mx::array last;
};

Result run(const Arrays& in, const SelectiveScanOptions& options, mx::Stream s) {
  const auto& A = in[2];
  const int dim = A.shape(0);
  const int dstate = A.shape(1);
  const bool grouped = in[3].ndim() == in[0].ndim() + 1;
  // One leading axis for flat rows: ragged sequences are scanned as one, single rows as sequences of one.
  const int axis = options.ragged() ? 0 : 1;
  const auto rows = [&](const mx::array& x) {
    const auto wide = mx::astype(x, mx::float32, s);
    return options.rows == ScanRowsAs::equal ? wide : mx::expand_dims(wide, axis, s);
  };
  const auto u = rows(in[0]);
  auto delta = rows(in[1]);
  if (options.has_bias) delta = mx::add(delta, at(in, options.delta_bias()), s);
  if (options.softplus) delta = softplus(delta, s);
  const auto B = per_channel(rows(in[3]), grouped, dim, s);
  const auto C = per_channel(rows(in[4]), grouped, dim, s);
  const int batch = u.shape(0);
  const int seqlen = u.shape(1);
  auto decay = mx::exp(mx::multiply(mx::expand_dims(delta, 3, s), A, s), s);
  auto input = mx::multiply(mx::expand_dims(mx::multiply(delta, u, s), 3, s), B, s);
  const int sequences = options.ragged() ? at(in, options.cu_seqlens()).shape(0) - 1 : batch;
  const auto state = options.has_state ? at(in, options.initial_state())
                                       : mx::zeros({sequences, dim, dstate}, mx::float32, s);
  auto last = state;
  auto h = input;
  auto y = u;
  const auto output = [&] {
    y = mx::sum(mx::multiply(h, C, s), 3, false, s);
    if (options.has_D) y = mx::add(y, mx::multiply(u, at(in, options.D()), s), s);
    if (options.has_z) {
      const auto z = rows(at(in, options.z()));
      y = mx::multiply(y, mx::multiply(z, mx::sigmoid(z, s), s), s);
    }
  };
  if (!options.ragged()) {
    if (seqlen > 0) {
      const auto first = mx::multiply(mx::slice(decay, {0, 0, 0, 0}, {batch, 1, dim, dstate}, s),
                                      mx::expand_dims(state, 1, s), s);
      const auto rest = mx::slice(input, {0, 1, 0, 0}, {batch, seqlen, dim, dstate}, s);
      const auto head = mx::add(mx::slice(input, {0, 0, 0, 0}, {batch, 1, dim, dstate}, s), first, s);
      h = scan_rows(decay, mx::concatenate({head, rest}, 1, s), s);
      last = mx::squeeze(mx::slice(h, {0, seqlen - 1, 0, 0}, {batch, seqlen, dim, dstate}, s), 1, s);
    }
    output();
  } else {
    // Where a sequence starts nothing is carried over: its decay is 0 and a h0 joins the input.
    const SequenceIndex index(at(in, options.cu_seqlens()), seqlen, s);
    const auto wide = [&](const mx::array& row) { return mx::expand_dims(row, {0, 2, 3}, s); };
    const auto zero = mx::array(0.0f);
    const auto starts = mx::logical_and(index.inside, mx::equal(index.position, mx::array(0), s), s);
    if (sequences > 0) {
      const auto carried =
          mx::multiply(decay, mx::expand_dims(mx::take(state, index.sequence, 0, s), 0, s), s);
      input = mx::add(input, mx::where(wide(starts), carried, zero, s), s);
    }
    const auto kept = mx::logical_and(index.inside, mx::logical_not(starts, s), s);
    decay = mx::where(wide(kept), decay, zero, s);
    input = mx::where(wide(index.inside), input, zero, s);
    h = scan_rows(decay, input, s);
    const auto stacked = mx::concatenate({mx::squeeze(h, 0, s), state}, 0, s);
    const auto end = mx::add(index.starts, mx::subtract(index.lengths, mx::array(1), s), s);
    const auto empty = mx::add(mx::arange(sequences, mx::int32, s), mx::array(seqlen), s);
    auto row = mx::where(mx::greater(index.lengths, mx::array(0), s), end, empty, s);
    row = mx::clip(row, mx::array(0), mx::array(std::max(seqlen + sequences - 1, 0)), s);
    if (sequences > 0) last = mx::take(stacked, row, 0, s);
    output();
    y = mx::where(mx::expand_dims(index.inside, {0, 2}, s), y, zero, s);
  }
  if (options.rows != ScanRowsAs::equal) {
    y = mx::squeeze(y, axis, s);
    h = mx::squeeze(h, axis, s);
  }
  return {mx::astype(y, in[0].dtype(), s), h, last};
}

}  // namespace

ComposedForm composed_selective_scan(SelectiveScanOptions options, bool saving, mx::Stream s) {
  return [options, saving, s](const Arrays& in) -> Arrays {
    const Result result = run(in, options, s);
    if (!saving) return {result.y, result.last};
    // Only the fused backward reads saved states, and after a transform it runs in composed form as well.
    const mx::Shape shape{num_saved_states(in, options), in[2].shape(1), in[2].shape(0)};
    return {result.y, result.last, mx::zeros(shape, mx::float32, s)};
  };
}

ComposedForm composed_selective_scan_grad(SelectiveScanOptions options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    const auto forward = composed_selective_scan(options, false, s);
    const auto floats = in.begin() + options.num_floats();
    const Arrays cu_seqlens(floats, in.begin() + options.num_inputs());
    const auto of_floats = [&](const Arrays& varied) {
      Arrays inputs = varied;
      inputs.insert(inputs.end(), cu_seqlens.begin(), cu_seqlens.end());
      return forward(inputs);
    };
    return mx::vjp(of_floats, Arrays(in.begin(), floats), {in[in.size() - 2], in[in.size() - 1]}).second;
  };
}

ComposedForm composed_selective_scan_states(SelectiveScanOptions options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    const Result result = run(in, options, s);
    return {result.y, result.states};
  };
}

}  // namespace ghost
