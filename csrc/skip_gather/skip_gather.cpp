#include "skip_gather/skip_gather.h"

namespace ghost {
namespace {

// x (..., dim) as (rows, dim) with a row of zeros appended, for entries that name no row.
mx::array with_zero_row(const mx::array& x, mx::Stream s) {
  const auto flat = mx::flatten(x, 0, static_cast<int>(x.ndim()) - 2, s);
  return mx::concatenate({flat, mx::zeros({1, flat.shape(1)}, x.dtype(), s)}, 0, s);
}

// Rows of x (..., dim) by index, where index x.rows is the zero row. MLX's take divides by the row size.
mx::array take_rows(const mx::array& x, const mx::array& index, mx::Stream s) {
  if (x.shape(-1) == 0) return mx::zeros({index.shape(0), 0}, x.dtype(), s);
  return mx::take(with_zero_row(x, s), index, 0, s);
}

// Indices with `rows`, the zero row, in place of those out of range.
mx::array in_range(const mx::array& indices, int rows, mx::Stream s) {
  const auto inside =
      mx::logical_and(mx::greater_equal(indices, mx::array(0), s), mx::less(indices, mx::array(rows), s), s);
  return mx::where(inside, indices, mx::array(rows), s);
}

// For each of `rows` rows the entry of the plan that names it, or n.
mx::array inverse_of(const mx::array& indices, int rows, mx::Stream s) {
  const int n = indices.shape(0);
  const auto entries = mx::expand_dims(mx::arange(n, mx::int32, s), 1, s);
  const auto inverse =
      mx::scatter(mx::full({rows + 1}, n, mx::int32, s), in_range(indices, rows, s), entries, 0, s);
  return mx::slice(inverse, {0}, {rows}, s);
}

// Same inputs and outputs as SkipGather.
ComposedForm composed_gather(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto indices = in_range(in[1], row_count(in[0]), s);
    mx::Shape stop = in[0].shape();
    stop.back() = 0;
    return {take_rows(in[0], indices, s), mx::slice(in[0], mx::Shape(stop.size(), 0), stop, s)};
  };
}

// Same inputs and outputs as SkipGatherGrad.
ComposedForm composed_gather_grad(mx::Stream s) {
  return [s](const Arrays& in) -> Arrays {
    const auto inverse = inverse_of(in[1], row_count(in[2]), s);
    mx::Shape shape = in[2].shape();
    shape.back() = in[0].shape(1);
    return {mx::reshape(take_rows(in[0], inverse, s), shape, s)};
  };
}

// y - x of the rows in the plan, in float32: rounded to a half-precision dtype it would spoil dgate's sum.
mx::array difference_of(const mx::array& x, const mx::array& y, const mx::array& indices, mx::Stream s) {
  const auto rows = take_rows(x, in_range(indices, row_count(x), s), s);
  return mx::subtract(mx::astype(y, mx::float32, s), mx::astype(rows, mx::float32, s), s);
}

// Same inputs and outputs as SkipScatter.
ComposedForm composed_scatter(SkipScatterOptions options, mx::Stream s) {
  return [options, s](const Arrays& in) -> Arrays {
    const auto& x = in[0];
    const int n = in[2].shape(0);
    const auto flat = mx::flatten(x, 0, static_cast<int>(x.ndim()) - 2, s);
    const auto inverse = inverse_of(in[2], flat.shape(0), s);
    const auto routed = mx::expand_dims(mx::less(inverse, mx::array(n), s), 1, s);
    auto rows = take_rows(in[1], inverse, s);
    if (options.gated) {
      const auto gates = mx::concatenate({in[3], mx::zeros({1}, mx::float32, s)}, 0, s);
      const auto gate = mx::expand_dims(mx::take(gates, inverse, 0, s), 1, s);
      const auto from = mx::astype(flat, mx::float32, s);
      const auto step = mx::subtract(mx::astype(rows, mx::float32, s), from, s);
      rows = mx::astype(mx::add(from, mx::multiply(gate, step, s), s), x.dtype(), s);
    }
    Arrays out{mx::reshape(mx::where(routed, rows, flat, s), x.shape(), s)};
    if (options.saves) {
      out.push_back(difference_of(x, in[1], in[2], s));
    }
    return out;
  };
}

// Same inputs and outputs as SkipScatterGrad.
ComposedForm composed_scatter_grad(bool gated, mx::Stream s) {
  return [gated, s](const Arrays& in) -> Arrays {
    const auto& dout = in[0];
    const int n = in[1].shape(0);
    const auto flat = mx::flatten(dout, 0, static_cast<int>(dout.ndim()) - 2, s);
    const int rows = flat.shape(0);
    const auto inverse = inverse_of(in[1], rows, s);
    const auto routed = mx::expand_dims(mx::less(inverse, mx::array(n), s), 1, s);
    // Entries that name no row, or one that a later entry names too, changed nothing.
    const auto indices = in_range(in[1], rows, s);
    const auto named = mx::concatenate({inverse, mx::full({1}, n, mx::int32, s)}, 0, s);
    const auto used = mx::equal(mx::take(named, indices, 0, s), mx::arange(n, mx::int32, s), s);
    const auto mine = take_rows(dout, mx::where(used, indices, mx::array(rows), s), s);
    if (!gated) {
      return {mx::reshape(mx::where(routed, mx::zeros_like(flat, s), flat, s), dout.shape(), s), mine};
    }
    const auto gates = mx::concatenate({in[2], mx::zeros({1}, mx::float32, s)}, 0, s);
    const auto keep = mx::subtract(mx::array(1.0f), mx::take(gates, inverse, 0, s), s);
    const auto d = mx::astype(flat, mx::float32, s);
    const auto scaled = mx::astype(mx::multiply(mx::expand_dims(keep, 1, s), d, s), dout.dtype(), s);
    const auto d_mine = mx::astype(mine, mx::float32, s);
    const auto dy = mx::multiply(mx::expand_dims(in[2], 1, s), d_mine, s);
    const auto dgate = mx::sum(mx::multiply(d_mine, in[3], s), 1, false, s);
    return {mx::reshape(mx::where(routed, scaled, flat, s), dout.shape(), s), mx::astype(dy, dout.dtype(), s),
            dgate};
  };
}

void require_rows(const char* op, const mx::array& x) {
  require_io_dtype(op, "x", x);
  require(x.ndim() >= 2, op, "x has the wrong shape, given ", shape_text(x.shape()),
          ", allowed: (batch, seqlen, dim) or (total, dim).");
}

void require_indices(const char* op, const mx::array& indices) {
  require(indices.dtype() == mx::int32, op, "indices have the wrong dtype, given ", indices.dtype(),
          ", allowed: int32.");
  require(indices.ndim() == 1, op, "indices have the wrong shape, given ", shape_text(indices.shape()),
          ", allowed: (n,).");
}

// The gradients asked for, with zeros for the indices, which have none.
Arrays pick_with_indices(Arrays gradients, const Arrays& primals, size_t indices,
                         const std::vector<int>& argnums, mx::Stream s) {
  gradients.insert(gradients.begin() + static_cast<std::ptrdiff_t>(indices),
                   mx::zeros_like(primals[indices], s));
  return pick(gradients, argnums);
}

}  // namespace

mx::array skip_gather(const mx::array& x, const mx::array& indices, mx::StreamOrDevice stream) {
  constexpr const char* op = "skip_gather";
  const mx::Stream s = mx::to_stream(stream);
  require_rows(op, x);
  require_indices(op, indices);
  const Arrays inputs{dense(x, s), dense_untraced(indices, s)};
  const ComposedForm composed = composed_gather(s);
  if (use_composed(s, Kernels::cpu_and_metal)) return composed(inputs)[0];
  return outputs_of(std::make_shared<SkipGather>(s, composed), inputs, {x.dtype(), x.dtype()})[0];
}

Arrays SkipGather::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                       const Arrays& outputs) {
  const mx::Stream s = stream();
  const Arrays inputs{dense_as(cotangents[0], primals[0].dtype(), s), primals[1], outputs[1]};
  const auto gradient = std::make_shared<SkipGatherGrad>(s, composed_gather_grad(s));
  return pick_with_indices(outputs_of(gradient, inputs, {primals[0].dtype()}), primals, 1, argnums, s);
}

std::vector<mx::Shape> SkipGather::output_shapes(const Arrays& inputs) {
  mx::Shape like = inputs[0].shape();
  const int dim = std::exchange(like.back(), 0);
  return {{inputs[1].shape(0), dim}, like};
}

std::vector<mx::Shape> SkipGatherGrad::output_shapes(const Arrays& inputs) {
  mx::Shape shape = inputs[2].shape();
  shape.back() = inputs[0].shape(1);
  return {shape};
}

mx::array skip_scatter(const mx::array& x, const mx::array& y, const mx::array& indices,
                       const std::optional<mx::array>& gate, mx::StreamOrDevice stream) {
  constexpr const char* op = "skip_scatter";
  const mx::Stream s = mx::to_stream(stream);
  require_rows(op, x);
  require_indices(op, indices);
  require_io_dtype(op, "y", y);
  const int n = indices.shape(0);
  require_shape(op, "y", y, {n, x.shape(-1)}, "(n, dim) of plan and x");
  if (gate) {
    require_io_dtype(op, "gate", *gate);
    require_shape(op, "gate", *gate, {n}, "(n,) of plan");
  }
  Arrays inputs{dense(x, s), dense(mx::astype(y, x.dtype(), s), s), dense_untraced(indices, s)};
  if (gate) inputs.push_back(dense_float32(*gate, s));
  const SkipScatterOptions options{gate.has_value(), gate.has_value() && any_tracer(inputs)};
  const ComposedForm composed = composed_scatter(options, s);
  if (use_composed(s, Kernels::cpu_and_metal)) return composed(inputs)[0];
  std::vector<mx::Dtype> dtypes{x.dtype()};
  if (options.saves) dtypes.push_back(mx::float32);
  return outputs_of(std::make_shared<SkipScatter>(s, composed, options), inputs, dtypes)[0];
}

Arrays SkipScatter::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                        const Arrays& outputs) {
  const mx::Stream s = stream();
  const auto& indices = primals[2];
  const auto dtype = primals[0].dtype();
  Arrays inputs{dense_as(cotangents[0], primals[0].dtype(), s), indices};
  std::vector<mx::Dtype> dtypes{dtype, dtype};
  if (options_.gated) {
    inputs.push_back(primals[3]);
    inputs.push_back(options_.saves ? outputs[1] : difference_of(primals[0], primals[1], indices, s));
    dtypes.push_back(mx::float32);
  }
  const auto gradient =
      std::make_shared<SkipScatterGrad>(s, composed_scatter_grad(options_.gated, s), options_.gated);
  Arrays gradients = outputs_of(gradient, inputs, dtypes);
  if (options_.saves && !known_zero(cotangents[1])) {
    // A gradient of a gradient reaches x and y through the saved difference too.
    const auto of_difference = [&](const Arrays& xy) -> Arrays {
      return {difference_of(xy[0], xy[1], indices, s)};
    };
    const auto more = mx::vjp(of_difference, {primals[0], primals[1]}, {cotangents[1]}).second;
    for (size_t i = 0; i < 2; ++i) gradients[i] = mx::add(gradients[i], mx::astype(more[i], dtype, s), s);
  }
  return pick_with_indices(gradients, primals, 2, argnums, s);
}

std::vector<mx::Shape> SkipScatter::output_shapes(const Arrays& inputs) {
  std::vector<mx::Shape> shapes{inputs[0].shape()};
  if (options_.saves) shapes.push_back(inputs[1].shape());
  return shapes;
}

bool SkipScatter::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const SkipScatter&>(other).options_;
}

std::vector<mx::Shape> SkipScatterGrad::output_shapes(const Arrays& inputs) {
  const int n = inputs[1].shape(0);
  std::vector<mx::Shape> shapes{inputs[0].shape(), {n, inputs[0].shape(-1)}};
  if (gated_) shapes.push_back({n});
  return shapes;
}

bool SkipScatterGrad::is_equivalent(const mx::Primitive& other) const {
  return gated_ == static_cast<const SkipScatterGrad&>(other).gated_;
}

}  // namespace ghost
