#include <cmath>
#include <vector>

#include "common/sequences.h"
#include "sparse_attention/sparse_attention.h"

namespace ghost {
namespace {

constexpr int kBlock = 256;  // queries whose scores are held at once

mx::array scalar(float x) { return mx::array(x); }
mx::array scalar(int x) { return mx::array(x); }

// (batch, rows, dim) to (batch, heads, rows, dim / heads).
mx::array split_heads(const mx::array& x, int heads, mx::Stream s) {
  return mx::swapaxes(mx::reshape(x, {x.shape(0), x.shape(1), heads, x.shape(2) / heads}, s), 1, 2, s);
}

mx::array masked(const mx::array& scores, const mx::array& allowed, mx::Stream s) {
  return mx::where(mx::expand_dims(allowed, 1, s), scores, scalar(-INFINITY), s);
}

mx::array column(const mx::array& count, mx::Stream s) { return mx::reshape(count, {-1, 1, 1}, s); }

// y and logsumexp of (batch, seqlen, dim) operands; rows past a sequence's end are computed and mean nothing.
Arrays padded_form(const SparseAttentionOptions& options, const Arrays& in, mx::Stream s) {
  const int batch = in[0].shape(0);
  const int seqlen = in[0].shape(1);
  const int dim = in[0].shape(2);
  const int heads = options.num_heads;
  const int stride = options.stride;
  const auto count = column(in[7], s);
  if (seqlen == 0 || batch == 0) {
    return {in[0], mx::zeros({batch, seqlen, heads}, mx::float32, s)};
  }
  const auto q = mx::multiply(split_heads(in[0], heads, s),
                              scalar(1.0f / std::sqrt(static_cast<float>(dim / heads))), s);
  const auto k = split_heads(mx::concatenate({in[3], in[1]}, 1, s), heads, s);
  const auto v = split_heads(mx::concatenate({in[4], in[2]}, 1, s), heads, s);

  // Far rows: those of the cache, then candidates among the new rows, the first numbered from `count` on.
  const int cached = in[5].shape(1);
  const int fresh = seqlen / stride + 1;
  const auto number_of = [&](const mx::array& m) {
    return mx::add(mx::multiply(m, scalar(stride), s), scalar(stride - 1), s);
  };
  const auto old_number =
      mx::broadcast_to(number_of(mx::arange(cached, mx::int32, s)), {batch, 1, cached}, s);
  const auto new_number =
      number_of(mx::add(mx::floor_divide(count, scalar(stride), s), mx::arange(fresh, mx::int32, s), s));
  const auto number = mx::concatenate({old_number, new_number}, 2, s);  // (batch, 1, cached + fresh)
  const auto row = mx::clip(mx::subtract(new_number, count, s), scalar(0), scalar(seqlen - 1), s);
  const auto far_rows = [&](const mx::array& old, const mx::array& rows) {
    const auto index = mx::reshape(row, {batch, fresh, 1}, s);
    return split_heads(mx::concatenate({old, mx::take_along_axis(rows, index, 1, s)}, 1, s), heads, s);
  };
  const auto far_k = far_rows(in[5], in[1]);
  const auto far_v = far_rows(in[6], in[2]);
  // A row of the cache counts up to `count`; new ones begin there.
  const auto is_old = mx::less(mx::arange(cached + fresh, mx::int32, s), scalar(cached), s);
  const auto from_right_place = mx::equal(mx::less(number, count, s), is_old, s);

  std::vector<float> slopes;
  for (int h = 0; h < heads; ++h) slopes.push_back(options.slope(h));
  const auto slope = mx::array(slopes.data(), {heads, 1, 1}, mx::float32);
  const auto rows_of = [&](const mx::array& x, int begin, int end) {
    return mx::slice(x, {0, 0, begin, 0}, {batch, heads, end, dim / heads}, s);
  };
  std::vector<mx::array> ys;
  std::vector<mx::array> sums;
  for (int begin = 0; begin < seqlen; begin += kBlock) {
    const int end = std::min(seqlen, begin + kBlock);
    const int columns = stride + end - begin;  // column c is row begin + c - stride of this call
    const auto qb = rows_of(q, begin, end);
    const auto i = mx::expand_dims(mx::arange(begin, end, mx::int32, s), 1, s);
    const auto j = mx::arange(begin - stride, end, mx::int32, s);
    const auto distance = mx::subtract(i, j, s);
    const auto near =
        mx::logical_and(mx::greater_equal(distance, scalar(0), s), mx::less(distance, scalar(stride), s), s);
    const auto exists = mx::greater_equal(mx::add(count, j, s), scalar(0), s);
    auto local = mx::matmul(qb, mx::swapaxes(rows_of(k, begin, end + stride), -1, -2, s), s);
    local = mx::subtract(local, mx::multiply(slope, mx::astype(distance, mx::float32, s), s), s);
    local = masked(local, mx::logical_and(near, exists, s), s);
    auto remote = mx::matmul(qb, mx::swapaxes(far_k, -1, -2, s), s);
    const auto early = mx::less_equal(number, mx::subtract(mx::add(count, i, s), scalar(stride), s), s);
    remote = masked(remote, mx::logical_and(early, from_right_place, s), s);
    const auto scores = mx::concatenate({local, remote}, -1, s);
    const auto weights = mx::softmax(scores, -1, true, s);
    const auto part = [&](int from, int to) {
      return mx::slice(weights, {0, 0, 0, from}, {batch, heads, end - begin, to}, s);
    };
    ys.push_back(mx::add(mx::matmul(part(0, columns), rows_of(v, begin, end + stride), s),
                         mx::matmul(part(columns, columns + cached + fresh), far_v, s), s));
    sums.push_back(mx::logsumexp(scores, -1, false, s));
  }
  const auto y = mx::swapaxes(mx::concatenate(ys, 2, s), 1, 2, s);
  return {mx::reshape(y, in[0].shape(), s), mx::swapaxes(mx::concatenate(sums, 2, s), 1, 2, s)};
}

// Ragged rows are padded to the longest sequence, which takes knowing the boundaries.
Arrays ragged_form(const SparseAttentionOptions& options, const Arrays& in, mx::Stream s) {
  auto boundaries = in[8];
  boundaries.eval();
  const int64_t total = in[0].shape(0);
  const int64_t batch = boundaries.shape(0) - 1;
  const auto spans = ragged_spans(boundaries.data<int32_t>(), batch, total);
  int64_t longest = 1;
  for (const Span& span : spans) longest = std::max(longest, span.length());
  // Row `total` stands for none: zeros.
  std::vector<int32_t> row(static_cast<size_t>(batch * longest), static_cast<int32_t>(total));
  std::vector<int32_t> cell(static_cast<size_t>(total), static_cast<int32_t>(batch * longest));
  for (int64_t b = 0; b < batch; ++b) {
    const Span& span = spans[static_cast<size_t>(b)];
    for (int64_t t = 0; t < span.length(); ++t) {
      row[static_cast<size_t>(b * longest + t)] = static_cast<int32_t>(span.begin + t);
      cell[static_cast<size_t>(span.begin + t)] = static_cast<int32_t>(b * longest + t);
    }
  }
  const auto rows = mx::array(row.data(), {static_cast<int>(batch), static_cast<int>(longest)}, mx::int32);
  const auto cells = mx::array(cell.data(), {static_cast<int>(total)}, mx::int32);
  const auto or_none = [&](const mx::array& x) {
    return mx::concatenate({x, mx::zeros({1, x.shape(1)}, x.dtype(), s)}, 0, s);
  };
  Arrays padded(in.begin(), in.begin() + 8);
  for (size_t i = 0; i < 3; ++i) padded[i] = mx::take(or_none(in[i]), rows, 0, s);
  Arrays out = padded_form(options, padded, s);
  for (auto& x : out) x = mx::take(or_none(mx::flatten(x, 0, 1, s)), cells, 0, s);
  return out;
}

}  // namespace

ComposedForm sparse_attention_composed(const SparseAttentionOptions& options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    if (!options.ragged) return padded_form(options, in, s);
    if (in[0].shape(0) == 0) return {in[0], mx::zeros({0, options.num_heads}, mx::float32, s)};
    return ragged_form(options, in, s);
  };
}

}  // namespace ghost
