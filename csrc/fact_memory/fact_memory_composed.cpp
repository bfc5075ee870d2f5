#include <limits>
#include <tuple>

#include "fact_memory/fact_memory.h"

namespace ghost {
namespace {

mx::array column(const mx::array& x, mx::Stream s) { return mx::expand_dims(x, -1, s); }

mx::array iota(int n, mx::Stream s) { return mx::arange(n, mx::int32, s); }

// base^0 .. base^(count - 1) modulo 2^32.
mx::array powers(uint32_t base, int count) {
  std::vector<uint32_t> out(static_cast<size_t>(count), 1u);
  for (size_t i = 1; i < out.size(); ++i) out[i] = out[i - 1] * base;
  return mx::array(out.data(), {count}, mx::uint32);
}

// Of an odd number modulo 2^32: each of Newton's steps doubles the bits that are right.
uint32_t inverse(uint32_t base) {
  uint32_t x = base;
  for (int i = 0; i < 5; ++i) x *= 2u - base * x;
  return x;
}

mx::array slice_columns(const mx::array& x, int begin, int end, mx::Stream s) {
  return mx::slice(x, {0, begin}, {x.shape(0), end}, s);
}

mx::array squared_norm(const mx::array& x, mx::Stream s) {
  return mx::add(mx::sum(mx::square(x, s), -1, false, s), mx::array(0.1f), s);
}

Arrays nothing(const std::vector<mx::Shape>& shapes, const std::vector<mx::Dtype>& dtypes, mx::Stream s) {
  Arrays out;
  for (size_t i = 0; i < shapes.size(); ++i) out.push_back(mx::zeros(shapes[i], dtypes[i], s));
  return out;
}

}  // namespace

// Candidates come from one prefix sum per text: with an odd base b, the polynomial hash of the bytes [s, e)
// modulo 2^32 is b^(e-1) (P[e] - P[s]), P the prefix sums of byte_hash b^-position, so every key length costs
// one subtraction. The longest candidate is then compared byte by byte, so a collision never invents a match.
Arrays composed_fact_match(const Arrays& in, int history, uint32_t hash_base, mx::Stream s) {
  const auto& [folded, keys, length, key_hash] = std::tie(in[0], in[1], in[2], in[3]);
  const int batch = folded.shape(0);
  const int total = folded.shape(1);
  const int seqlen = total - history;
  const int width = keys.shape(1);
  if (batch * seqlen * width == 0)
    return nothing(std::vector<mx::Shape>(2, {batch, seqlen}), {mx::int32, mx::int32}, s);
  const auto zero = mx::array(0);
  const auto terms = mx::multiply(mx::take(in[4], folded, s), powers(inverse(hash_base), total), s);
  const auto prefix =
      mx::pad(mx::cumsum(terms, 1, false, true, s), {{0, 0}, {1, 0}}, mx::array(0u), "constant", s);
  const auto word = mx::astype(mx::take(in[5], folded, s), mx::bool_, s);
  const auto joined =
      mx::logical_and(slice_columns(word, 1, total, s), slice_columns(word, 0, total - 1, s), s);
  const auto inside_word = mx::pad(joined, {{0, 0}, {1, 0}}, mx::array(false), "constant", s);

  const auto end = mx::arange(history, total, mx::int32, s);
  const auto start = mx::subtract(column(end, s), mx::arange(1, width + 1, mx::int32, s), s);
  const auto power = mx::take(powers(hash_base, total), mx::subtract(end, mx::array(1), s), s);
  const auto before =
      mx::subtract(column(slice_columns(prefix, history, total, s), s), mx::take(prefix, start, 1, s), s);
  const auto forbidden = mx::logical_or(mx::take(inside_word, start, 1, s),
                                        column(slice_columns(inside_word, history, total, s), s), s);
  const auto odd = mx::bitwise_or(mx::multiply(before, column(power, s), s), mx::array(1u), s);
  const auto hashes = mx::where(forbidden, mx::array(0u), odd, s);

  const auto which = mx::subtract(mx::maximum(length, mx::array(1), s), mx::array(1), s);
  const auto found = mx::equal(mx::take(hashes, which, 2, s), key_hash, s);
  const auto score = mx::where(mx::logical_and(found, mx::greater(length, zero, s), s), length, zero, s);
  const auto row = mx::astype(mx::argmax(score, -1, false, s), mx::int32, s);

  const auto key = mx::take(keys, row, 0, s);
  const auto text = mx::take(folded, mx::add(column(end, s), mx::arange(-width, 0, mx::int32, s), s), 1, s);
  const auto same = mx::logical_or(mx::equal(key, text, s), mx::equal(key, mx::array(256), s), s);
  const auto best = mx::where(mx::all(same, -1, false, s), mx::max(score, -1, false, s), zero, s);
  return {mx::where(mx::greater(best, zero, s), row, zero, s), best};
}

Arrays composed_fact_scores(const Arrays& in, int top_k, mx::Stream s) {
  const auto& [dot, bag, keys, length] = std::tie(in[0], in[1], in[2], in[3]);
  const auto& [hit_row, hit_log, log_scale, null_score] = std::tie(in[4], in[5], in[6], in[7]);
  const int rows = keys.shape(0);
  const mx::Shape bytes{bag.shape(0), bag.shape(1)};
  if (bytes[0] * bytes[1] == 0) {
    const mx::Shape candidates{bytes[0], bytes[1], top_k + 1};
    return nothing({dot.shape(), bytes, candidates, candidates, bytes},
                   {mx::float32, mx::float32, mx::int32, mx::float32, mx::float32}, s);
  }
  const auto zero = mx::array(0.0f);
  const auto number = iota(rows, s);
  const auto scale_of = [&](int i) {
    return mx::squeeze(mx::slice(mx::exp(log_scale, s), {i}, {i + 1}, s), 0, s);
  };
  const auto key_norm = squared_norm(keys, s);
  const auto cosine = mx::multiply(mx::multiply(dot, mx::rsqrt(key_norm, s), s),
                                   column(mx::rsqrt(squared_norm(bag, s), s), s), s);
  const auto coverage = mx::minimum(mx::divide(dot, key_norm, s), mx::array(1.2f), s);
  auto strength = mx::zeros(dot.shape(), mx::float32, s);
  const auto faded = mx::exp(hit_log, s);
  for (int slot = 0; slot < hit_row.shape(2); ++slot) {
    const auto at = [&](const mx::array& x) {
      return mx::slice(x, {0, 0, slot}, {bytes[0], bytes[1], slot + 1}, s);
    };
    strength = mx::maximum(strength, mx::where(mx::equal(number, at(hit_row), s), at(faded), zero, s), s);
  }
  const auto longer =
      mx::divide(mx::astype(mx::minimum(length, mx::array(24), s), mx::float32, s), mx::array(24.0f), s);
  const auto exact = mx::add(mx::add(scale_of(2), mx::multiply(scale_of(3), longer, s), s),
                             mx::multiply(scale_of(4), cosine, s), s);
  const auto of_key =
      mx::add(mx::add(mx::multiply(scale_of(0), cosine, s), mx::multiply(scale_of(1), coverage, s), s),
              mx::multiply(exact, strength, s), s);
  const auto is_key = mx::greater(length, mx::array(0), s);
  const auto is_null = mx::equal(number, mx::array(0), s);
  const auto scores =
      mx::where(is_key, of_key, mx::where(is_null, null_score, mx::array(kFactPadding), s), s);

  // A few passes of argmax are several times faster than a partial sort of long rows.
  const auto lowest = mx::array(-std::numeric_limits<float>::infinity());
  auto left = mx::stop_gradient(mx::where(is_null, lowest, scores, s), s);
  Arrays best{mx::zeros(bytes, mx::uint32, s)};
  for (int i = 0; i < top_k; ++i) {
    best.push_back(mx::argmax(left, -1, false, s));
    left = mx::where(mx::equal(number, column(best.back(), s), s), lowest, left, s);
  }
  const auto index = mx::stack(best, -1, s);
  const auto chosen = mx::take_along_axis(scores, index, -1, s);
  const auto log_norm = mx::logsumexp(chosen, -1, false, s);
  return {scores, mx::max(mx::where(is_key, cosine, zero, s), -1, false, s), mx::astype(index, mx::int32, s),
          mx::subtract(chosen, column(log_norm, s), s), log_norm};
}

Arrays composed_fact_positions(const Arrays& in, mx::Stream s) {
  const auto& [began, candidates, log_weights, folded] = std::tie(in[0], in[1], in[2], in[3]);
  const auto& [scale, values, value_context, value_length] = std::tie(in[4], in[5], in[6], in[7]);
  const int batch = began.shape(0);
  const int seqlen = began.shape(1);
  const int width = began.shape(2);
  const mx::Shape bytes{batch, seqlen};
  if (batch * seqlen == 0) {
    return nothing({{batch, seqlen, kFactBytes}, bytes, bytes, bytes}, std::vector<mx::Dtype>(4, mx::float32),
                   s);
  }
  const auto scale_of = [&](int i) { return mx::squeeze(mx::slice(scale, {i}, {i + 1}, s), 0, s); };
  const int past = candidates.shape(1) - seqlen;
  const auto offset = column(iota(width, s), s);  // (width, 1)
  const auto window =
      mx::subtract(column(mx::arange(past, past + seqlen, mx::int32, s), s), iota(width, s), s);
  const auto row = mx::take(candidates, window, 1, s);  // (batch, seqlen, width, K)
  const auto log_weight = mx::take(log_weights, window, 1, s);
  const auto flat = mx::add(mx::multiply(row, mx::array(width), s), offset, s);
  const auto byte = mx::take(mx::reshape(values, {-1}, s), flat, s);
  const auto context = mx::take(mx::reshape(value_context, {-1}, s), flat, s);
  const auto inside_value = mx::less(offset, mx::take(value_length, row, s), s);

  auto recent = mx::zeros(bytes, mx::uint32, s);
  for (int back = 0; back < 4; ++back) {
    const int end = folded.shape(1) - back;
    const auto low = mx::bitwise_and(slice_columns(folded, end - seqlen, end, s), mx::array(255), s);
    recent = mx::bitwise_or(
        recent, mx::left_shift(mx::astype(low, mx::uint32, s), mx::array(static_cast<uint32_t>(8 * back)), s),
        s);
  }
  const auto difference = mx::bitwise_xor(context, column(column(recent, s), s), s);
  const auto counter = mx::multiply(scale_of(0), mx::maximum(began, mx::array(kFactFloor), s), s);
  auto score = mx::add(column(counter, s), log_weight, s);
  for (int back = 0; back < 4; ++back) {
    const auto mask = mx::array(back == 3 ? 0xffffffffu : (1u << (8 * (back + 1))) - 1u);
    const auto equal = mx::equal(mx::bitwise_and(difference, mask, s), mx::array(0u), s);
    const auto agrees = mx::logical_and(equal, mx::greater(offset, mx::array(back), s), s);
    score = mx::add(score, mx::multiply(scale_of(1 + back), mx::astype(agrees, mx::float32, s), s), s);
  }
  score = mx::reshape(mx::where(inside_value, score, mx::array(kFactPadding), s), {batch * seqlen, -1}, s);
  const auto log_sum = mx::logsumexp(score, -1, true, s);
  const auto weight = mx::exp(mx::subtract(score, log_sum, s), s);
  const auto copy = mx::scatter_add_axis(mx::zeros({batch * seqlen, kFactBytes}, mx::float32, s),
                                         mx::reshape(byte, score.shape(), s), weight, 1, s);

  const auto mass =
      mx::where(inside_value, mx::exp(mx::add(column(began, s), log_weight, s), s), mx::array(0.0f), s);
  const auto inside = mx::minimum(mx::sum(mass, std::vector<int>{2, 3}, false, s), mx::array(1.0f), s);
  const auto of_null = mx::squeeze(mx::slice(mass, {0, 0, 0, 0}, {batch, seqlen, width, 1}, s), 3, s);
  return {mx::reshape(copy, {batch, seqlen, kFactBytes}, s), inside, mx::sum(of_null, 2, false, s),
          mx::reshape(log_sum, bytes, s)};
}

}  // namespace ghost
