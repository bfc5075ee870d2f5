#include "skip_gather/routing_plan_host.h"
#include "skip_gather/skip_gather.h"

namespace ghost {
namespace {

constexpr const char* kOp = "routing_plan";

// Same inputs and outputs as RoutingPlan. Sorting the rows set, with `total` for the others, is the prefix
// sum's order.
ComposedForm composed_plan(int capacity, bool ragged, mx::Stream s) {
  return [capacity, ragged, s](const Arrays& in) -> Arrays {
    const auto mask = mx::flatten(in[0], s);
    const int total = mask.shape(0);
    const auto rows = mx::arange(total, mx::int32, s);
    mx::array bounds = mx::zeros({1}, mx::int32, s);  // boundaries in mask rows
    if (ragged) {
      // As the kernel does: every boundary at least the one before it, none outside the mask.
      bounds = mx::cummax(mx::clip(in[1], mx::array(0), mx::array(total), s), 0, false, true, s);
    } else {
      const int batch = in[0].ndim() == 2 ? in[0].shape(0) : 1;
      const int seqlen = in[0].shape(-1);
      bounds = mx::multiply(mx::arange(batch + 1, mx::int32, s), mx::array(seqlen), s);
    }
    const int last = bounds.shape(0) - 1;
    const auto inside = mx::logical_and(mx::greater_equal(rows, mx::slice(bounds, {0}, {1}, s), s),
                                        mx::less(rows, mx::slice(bounds, {last}, {last + 1}, s), s), s);
    const auto set = mx::logical_and(mask, inside, s);
    const auto padding = mx::full({capacity}, total, mx::int32, s);
    const auto keys = mx::concatenate({mx::where(set, rows, mx::array(total), s), padding}, 0, s);
    const auto indices = mx::slice(mx::sort(keys, 0, s), {0}, {capacity}, s);
    const auto sums = mx::concatenate(
        {mx::zeros({1}, mx::int32, s), mx::cumsum(mx::astype(set, mx::int32, s), 0, false, true, s)}, 0, s);
    const auto before = mx::take(sums, bounds, 0, s);
    const auto count = mx::squeeze(mx::slice(before, {last}, {last + 1}, s), s);
    return {indices, mx::minimum(before, mx::array(capacity), s), count};
  };
}

void evaluate(const mx::array& mask, const std::optional<mx::array>& cu_seqlens) {
  try {
    Arrays needed{mask};
    if (cu_seqlens) needed.push_back(*cu_seqlens);
    mx::eval(needed);
  } catch (const std::exception& error) {
    fail(kOp,
         "the mask cannot be evaluated, which a plan without a capacity needs, given capacity=None, allowed "
         "inside mx.compile and mx.vmap: an integer capacity. MLX says: ",
         error.what());
  }
}

}  // namespace

std::tuple<mx::array, mx::array, mx::array> routing_plan(const mx::array& mask, std::optional<int> capacity,
                                                         const std::optional<mx::array>& cu_seqlens,
                                                         mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const bool ragged = cu_seqlens.has_value();
  require(mask.dtype() == mx::bool_, kOp, "mask has the wrong dtype, given ", mask.dtype(),
          ", allowed: bool.");
  if (ragged) {
    require_cu_seqlens(kOp, *cu_seqlens);
    require(mask.ndim() == 1, kOp, "mask has the wrong shape, given ", shape_text(mask.shape()),
            ", allowed: (total,) with cu_seqlens.");
  } else {
    require(mask.ndim() == 1 || mask.ndim() == 2, kOp, "mask has the wrong shape, given ",
            shape_text(mask.shape()), ", allowed: (batch, seqlen) or (total,).");
  }
  require(!capacity || *capacity >= 0, kOp, "capacity is negative, given ", capacity.value_or(0),
          ", allowed: 0 or more, or None.");

  // A plan does not vary with anything differentiable, and MLX differentiates no gather in its indices.
  Arrays inputs{dense_untraced(mask, s)};
  std::optional<mx::array> bounds;
  if (ragged) inputs.push_back(bounds.emplace(dense_untraced(*cu_seqlens, s)));
  if (!capacity) {
    evaluate(inputs[0], bounds);
    // The mask is in memory that the host reads too, on Apple silicon as well, so the host makes the plan.
    const HostPlan plan(inputs[0], bounds ? &*bounds : nullptr);
    capacity = plan.count();
    if (!use_composed(s, Kernels::cpu_and_metal)) {
      std::vector<int32_t> indices(static_cast<size_t>(*capacity));
      std::vector<int32_t> cu(plan.boundaries());
      int32_t count = 0;
      plan.write(*capacity, indices.data(), cu.data(), &count);
      return {mx::array(indices.data(), {*capacity}, mx::int32),
              mx::array(cu.data(), {static_cast<int>(cu.size())}, mx::int32), mx::array(count, mx::int32)};
    }
  }
  const ComposedForm composed = composed_plan(*capacity, ragged, s);
  if (use_composed(s, Kernels::cpu_and_metal)) {
    const Arrays out = composed(inputs);
    return {out[0], out[1], out[2]};
  }
  const auto primitive = std::make_shared<RoutingPlan>(s, composed, *capacity, ragged);
  const Arrays out = mx::array::make_arrays(primitive->output_shapes(inputs),
                                            {mx::int32, mx::int32, mx::int32}, primitive, inputs);
  return {out[0], out[1], out[2]};
}

// A plan does not vary with anything differentiable.
Arrays RoutingPlan::jvp(const Arrays& primals, const Arrays&, const std::vector<int>&) {
  Arrays zeros;
  for (const auto& shape : output_shapes(primals)) zeros.push_back(mx::zeros(shape, mx::int32, stream()));
  return zeros;
}

Arrays RoutingPlan::vjp(const Arrays& primals, const Arrays&, const std::vector<int>& argnums,
                        const Arrays&) {
  Arrays zeros;
  for (const auto& x : pick(primals, argnums)) zeros.push_back(mx::zeros_like(x, stream()));
  return zeros;
}

std::vector<mx::Shape> RoutingPlan::output_shapes(const Arrays& inputs) {
  const int batch = ragged_ ? inputs[1].shape(0) - 1 : inputs[0].ndim() == 2 ? inputs[0].shape(0) : 1;
  return {{capacity_}, {batch + 1}, {}};
}

bool RoutingPlan::is_equivalent(const mx::Primitive& other) const {
  const auto& plan = static_cast<const RoutingPlan&>(other);
  return capacity_ == plan.capacity_ && ragged_ == plan.ragged_;
}

}  // namespace ghost
