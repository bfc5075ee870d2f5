#pragma once

#include <optional>
#include <tuple>

#include "common/primitive.h"

namespace ghost {

// Order-preserving compaction of a mask: which rows of a (total, dim) operand a layer works on.
//   indices (n,) int32         rows whose mask is set, in order
//   cu_seqlens (batch + 1,)    boundaries of the sequences among those rows
//   count () int32             how many rows are set
// mask (batch, seqlen), or (total,) with optional cu_seqlens; rows of no sequence are never in the plan.
// Without a capacity n is count, which evaluates the mask. With one, n is the capacity: the first `capacity`
// rows are kept, cu_seqlens counts those kept, and entries left over hold `total`, which is no row.
std::tuple<mx::array, mx::array, mx::array> routing_plan(const mx::array& mask, std::optional<int> capacity,
                                                         const std::optional<mx::array>& cu_seqlens,
                                                         mx::StreamOrDevice s = {});

// y[i] = x[indices[i]] over the rows of x (..., dim); zero where indices[i] is no row of x.
mx::array skip_gather(const mx::array& x, const mx::array& indices, mx::StreamOrDevice s = {});

// x with row indices[i] replaced by y[i], or by x + gate[i] * (y[i] - x). All other rows are x's, bit for
// bit. Of entries that name the same row the last one counts; those that name no row of x do nothing.
mx::array skip_scatter(const mx::array& x, const mx::array& y, const mx::array& indices,
                       const std::optional<mx::array>& gate, mx::StreamOrDevice s = {});

// Inputs mask[, cu_seqlens]; outputs indices, cu_seqlens, count.
class RoutingPlan : public Primitive {
 public:
  RoutingPlan(mx::Stream stream, ComposedForm composed, int capacity, bool ragged)
      : Primitive(stream, std::move(composed)), capacity_(capacity), ragged_(ragged) {}

  GHOST_EVAL
  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(RoutingPlan)

 private:
  int capacity_;
  bool ragged_;
};

// Inputs x, indices; outputs y and an empty array (..., 0) that remembers the leading dimensions of x, so
// that the gradient need not keep x itself.
class SkipGather : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(SkipGather)
};

// Inputs dy, indices, the empty array; output dx.
class SkipGatherGrad : public Primitive {
 public:
  using Primitive::Primitive;

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive&) const override { return true; }
  DEFINE_NAME(SkipGatherGrad)
};

struct SkipScatterOptions {
  bool gated = false;
  bool saves = false;  // also output y - x of the rows in the plan, for the gradient of the gate
  bool operator==(const SkipScatterOptions&) const = default;
};

// Inputs x, y, indices[, gate]; outputs out[, difference (n, dim)].
class SkipScatter : public Primitive {
 public:
  SkipScatter(mx::Stream stream, ComposedForm composed, SkipScatterOptions options)
      : Primitive(stream, std::move(composed)), options_(options) {}

  GHOST_EVAL
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(SkipScatter)

 private:
  SkipScatterOptions options_;
};

// Inputs dout, indices[, gate, difference]; outputs dx, dy[, dgate].
class SkipScatterGrad : public Primitive {
 public:
  SkipScatterGrad(mx::Stream stream, ComposedForm composed, bool gated)
      : Primitive(stream, std::move(composed)), gated_(gated) {}

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(SkipScatterGrad)

 private:
  bool gated_;
};

}  // namespace ghost
