#include "codebook_matmul/codebook_matmul_composed.h"

#include "mlx/transforms.h"

namespace ghost::codebook_composed {
namespace {

// (N, K / 16) words to (N, K) codes.
mx::array unpack(const mx::array& codes, mx::Stream s) {
  const auto shifts = mx::arange(0, 32, 2, mx::uint32, s);
  const auto shifted = mx::right_shift(mx::expand_dims(codes, -1, s), shifts, s);
  return mx::flatten(mx::bitwise_and(shifted, mx::array(3u, mx::uint32), s), -2, -1, s);
}

int groups_of(const mx::array& codebook) { return codebook.ndim() == 1 ? 1 : codebook.shape(-2); }

// (N, K) to (N, groups, K / groups).
mx::array grouped(const mx::array& w, int groups, mx::Stream s) {
  return mx::unflatten(w, -1, {groups, w.shape(-1) / groups}, s);
}

// The four levels of every codebook, each to broadcast with (N, groups, K / groups).
Arrays levels_of(const mx::array& codebook, mx::Stream s) {
  // Gathering divides by the size, splitting has no shape inference for shapeless compilation.
  if (codebook.size() == 0) return mx::split(codebook, 4, -1, s);
  Arrays levels;
  const auto last = static_cast<int>(codebook.ndim()) - 1;
  for (int c = 0; c < 4; ++c) levels.push_back(mx::take(codebook, mx::array({c}, mx::int32), last, s));
  return levels;
}

mx::array as_rows(const mx::array& x, mx::Stream s) {
  return x.ndim() == 1 ? mx::expand_dims(x, 0, s) : mx::flatten(x, 0, -2, s);
}

mx::array in_float32(const mx::array& x, mx::Stream s) { return mx::astype(x, mx::float32, s); }

// dy^T x as the gradient of a (N, K) weight.
mx::array weight_gradient(const mx::array& left, const mx::array& right, mx::Stream s) {
  const auto rows = mx::transpose(as_rows(in_float32(left, s), s), s);
  return mx::matmul(rows, as_rows(in_float32(right, s), s), s);
}

mx::array codebook_gradient(const mx::array& dw, const mx::array& codes, const mx::array& codebook,
                            mx::Stream s) {
  const auto sums = bucket_sum(dw, codes, groups_of(codebook), s);
  return codebook.ndim() == 1 ? mx::sum(sums, std::vector<int>{0, 1}, false, s) : sums;
}

// Rounds to the nearest of 255 steps of the largest magnitude along the last axis.
mx::array round_to_int8(const mx::array& x, mx::Stream s) {
  const auto step = mx::divide(mx::max(mx::abs(x, s), -1, true, s), mx::array(127.0f), s);
  const auto safe = mx::where(mx::greater(step, mx::array(0.0f), s), step, mx::array(1.0f), s);
  return mx::multiply(mx::round(mx::divide(x, safe, s), s), step, s);
}

mx::array rounded(const mx::array& x, Activation activation, mx::Stream s) {
  if (activation == Activation::bfloat16) return in_float32(mx::astype(x, mx::bfloat16, s), s);
  if (activation == Activation::int8 && x.shape(-1) > 0) return round_to_int8(x, s);
  return x;
}

}  // namespace

mx::array decode(const mx::array& codes, const mx::array& codebook, mx::Stream s) {
  const auto index = grouped(unpack(codes, s), groups_of(codebook), s);
  const auto bit = [&](uint32_t mask) {
    return mx::not_equal(mx::bitwise_and(index, mx::array(mask, mx::uint32), s), mx::array(0u, mx::uint32),
                         s);
  };
  const auto low = bit(1);
  const Arrays levels = levels_of(codebook, s);
  const auto upper = mx::where(low, levels[3], levels[2], s);
  const auto lower = mx::where(low, levels[1], levels[0], s);
  return mx::flatten(mx::where(bit(2), upper, lower, s), -2, -1, s);
}

mx::array bucket_sum(const mx::array& dw, const mx::array& codes, int groups, mx::Stream s) {
  const auto index = grouped(unpack(codes, s), groups, s);
  const auto values = grouped(dw, groups, s);
  Arrays sums;
  for (uint32_t c = 0; c < 4; ++c) {
    const auto here = mx::equal(index, mx::array(c, mx::uint32), s);
    sums.push_back(mx::sum(mx::where(here, values, mx::array(0.0f), s), -1, false, s));
  }
  return mx::stack(sums, -1, s);
}

ComposedForm matmul(bool transpose, Activation activation, mx::Stream s) {
  return [transpose, activation, s](const Arrays& in) -> Arrays {
    const auto x = rounded(in_float32(in[0], s), activation, s);
    const auto weight = decode(in[1], rounded(in[2], activation, s), s);
    const auto y = mx::matmul(x, transpose ? mx::transpose(weight, s) : weight, s);
    return {mx::astype(y, in[0].dtype(), s)};
  };
}

ComposedForm gradient(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    return {codebook_gradient(weight_gradient(in[0], in[1], s), in[2], in[3], s)};
  };
}

mx::array half_levels(const mx::array& codebook, mx::Stream s) {
  const auto exact = mx::stop_gradient(codebook, s);
  // The difference of a number and its rounding is exact, and so is the sum.
  const auto change = mx::subtract(in_float32(mx::astype(exact, mx::float16, s), s), exact, s);
  return mx::add(codebook, change, s);
}

ComposedForm latent(bool half, mx::Stream s) {
  return [half, s](const Arrays& in) -> Arrays {
    const auto codebook = half ? half_levels(in[2], s) : in[2];
    const auto codes =
        mx::stop_gradient(assign(s)({mx::stop_gradient(in[1], s), mx::stop_gradient(codebook, s)})[0], s);
    // Adds an exact zero whose gradient is the weight's.
    const auto through = mx::subtract(in[1], mx::stop_gradient(in[1], s), s);
    const auto weight = mx::add(decode(codes, codebook, s), through, s);
    const auto y = mx::matmul(in_float32(in[0], s), mx::transpose(weight, s), s);
    return {mx::astype(y, in[0].dtype(), s), codes};
  };
}

ComposedForm latent_gradient(CodebookMatmulLatentGrad::Wanted wanted, bool half, mx::Stream s) {
  return [wanted, half, s](const Arrays& in) -> Arrays {
    Arrays out;
    if (wanted.x) {
      const auto codebook = half ? half_levels(in[2], s) : in[2];
      const auto dx = mx::matmul(in_float32(in[3], s), decode(in[1], codebook, s), s);
      out.push_back(mx::astype(dx, in[0].dtype(), s));
    }
    if (!wanted.weight && !wanted.codebook) return out;
    const auto dweight = weight_gradient(in[3], in[0], s);
    if (wanted.weight) out.push_back(dweight);
    if (wanted.codebook) out.push_back(codebook_gradient(dweight, in[1], in[2], s));
    return out;
  };
}

ComposedForm assign(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto w = grouped(in[0], groups_of(in[1]), s);
    const Arrays levels = levels_of(in[1], s);
    auto best = mx::abs(mx::subtract(w, levels[0], s), s);
    auto index = mx::zeros_like(mx::astype(w, mx::uint32, s), s);
    for (uint32_t c = 1; c < 4; ++c) {
      const auto distance = mx::abs(mx::subtract(w, levels[c], s), s);
      const auto nearer = mx::less(distance, best, s);
      index = mx::where(nearer, mx::array(c, mx::uint32), index, s);
      best = mx::where(nearer, distance, best, s);
    }
    const auto runs = mx::unflatten(mx::flatten(index, -2, -1, s), -1, {in[0].shape(-1) / 16, 16}, s);
    const auto shifted = mx::left_shift(runs, mx::arange(0, 32, 2, mx::uint32, s), s);
    return {mx::astype(mx::sum(shifted, -1, false, s), mx::uint32, s)};
  };
}

ComposedForm dequantize(mx::Dtype dtype, mx::Stream s) {
  return [dtype, s](const Arrays& in) -> Arrays { return {mx::astype(decode(in[0], in[1], s), dtype, s)}; };
}

ComposedForm bucket_sums(int groups, mx::Stream s) {
  return [groups, s](const Arrays& in) -> Arrays { return {bucket_sum(in[0], in[1], groups, s)}; };
}

}  // namespace ghost::codebook_composed
