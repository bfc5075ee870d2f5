#include "selective_scan/selective_scan.h"

#include <algorithm>

#include "selective_scan/selective_scan_kernels.h"

namespace ghost {
namespace {

constexpr int kMaxStates = 256;

void check_float(const char* op, const char* name, const std::optional<mx::array>& x, const mx::Shape& shape,
                 const char* meaning) {
  if (!x) return;
  require_io_dtype(op, name, *x);
  require_shape(op, name, *x, shape, meaning);
}

// B or C: the rows of u, then (dstate) or (ngroups, dstate).
void check_projection(const char* op, const char* name, const mx::array& x, const mx::array& u, int dstate) {
  require_io_dtype(op, name, x);
  const bool grouped = x.ndim() == u.ndim() + 1;
  mx::Shape expected(u.shape().begin(), u.shape().end() - 1);
  if (grouped) expected.push_back(-1);
  expected.push_back(dstate);
  require_shape(op, name, x, expected,
                "(rows of u, dstate) or (rows of u, ngroups, dstate), dstate that of A,");
  const int dim = u.shape(-1);
  require(!grouped || (x.shape(-2) > 0 && dim % x.shape(-2) == 0), op, name, " has the wrong ngroups, given ",
          x.shape(-2), ", allowed: a divisor of dim = ", dim, ".");
}

SelectiveScanOptions validate(const char* op, const ScanOperands& in, ScanRowsAs rows, bool softplus) {
  require_io_dtype(op, "u", in.u);
  require_io_dtype(op, "A", in.A);
  require(in.A.ndim() == 2 && in.A.shape(1) >= 1 && in.A.shape(1) <= kMaxStates, op,
          "A has the wrong shape, given ", shape_text(in.A.shape()),
          ", allowed: (dim, dstate) with dstate 1 to ", kMaxStates, ".");
  const int dim = in.A.shape(0);
  const int dstate = in.A.shape(1);
  if (rows == ScanRowsAs::ragged) {
    require_cu_seqlens(op, *in.cu_seqlens);
    require_shape(op, "u", in.u, {-1, dim}, "(total, dim), dim that of A,");
  } else if (rows == ScanRowsAs::single) {
    require_shape(op, "u", in.u, {-1, dim}, "(batch, dim), dim that of A,");
  } else {
    require_shape(op, "u", in.u, {-1, -1, dim}, "(batch, seqlen, dim), dim that of A,");
  }
  const auto like_u = [&](const char* name, const mx::array& x) {
    require_shape(op, name, x, in.u.shape(), "the shape of u");
    require(x.dtype() == in.u.dtype(), op, name, " has the wrong dtype, given ", x.dtype(),
            ", allowed: ", in.u.dtype(), ", that of u.");
  };
  like_u("delta", in.delta);
  if (in.z) like_u("z", *in.z);
  check_projection(op, "B", in.B, in.u, dstate);
  check_projection(op, "C", in.C, in.u, dstate);
  require(in.B.shape() == in.C.shape(), op, "C has the wrong shape, given ", shape_text(in.C.shape()),
          ", allowed: that of B = ", shape_text(in.B.shape()), ".");
  check_float(op, "D", in.D, {dim}, "(dim,)");
  check_float(op, "delta_bias", in.delta_bias, {dim}, "(dim,)");
  const int batch = rows == ScanRowsAs::ragged ? in.cu_seqlens->shape(0) - 1 : in.u.shape(0);
  const bool single = rows == ScanRowsAs::single;
  check_float(op, single ? "state" : "initial_state", in.initial_state, {batch, dim, dstate},
              "(batch, dim, dstate)");
  return {rows,
          softplus,
          in.D.has_value(),
          in.z.has_value(),
          in.delta_bias.has_value(),
          in.initial_state.has_value()};
}

// Rows stay in their dtype; what has no row of u's size becomes float32 here.
Arrays gather(const ScanOperands& in, mx::Stream s) {
  Arrays inputs{dense(in.u, s), dense(in.delta, s), dense_float32(in.A, s), dense_float32(in.B, s),
                dense_float32(in.C, s)};
  if (in.D) inputs.push_back(dense_float32(*in.D, s));
  if (in.z) inputs.push_back(dense(*in.z, s));
  if (in.delta_bias) inputs.push_back(dense_float32(*in.delta_bias, s));
  if (in.initial_state) inputs.push_back(dense_float32(*in.initial_state, s));
  if (in.cu_seqlens) inputs.push_back(dense(*in.cu_seqlens, s));
  return inputs;
}

int batch_of(const Arrays& inputs, const SelectiveScanOptions& options) {
  return options.ragged() ? inputs[static_cast<size_t>(options.cu_seqlens())].shape(0) - 1
                          : inputs[0].shape(0);
}

std::pair<mx::array, mx::array> scan(const char* op, const ScanOperands& operands, ScanRowsAs rows,
                                     bool softplus, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const auto options = validate(op, operands, rows, softplus);
  const Arrays inputs = gather(operands, s);
  // A single row has no states between chunks.
  const bool saving = rows != ScanRowsAs::single && any_tracer(inputs);
  const Arrays out = use_composed(s, Kernels::cpu_and_metal)
                         ? composed_selective_scan(options, false, s)(inputs)
                         : SelectiveScan::build(inputs, options, saving, s);
  return {out[0], out[1]};
}

}  // namespace

int num_saved_states(const Arrays& inputs, const SelectiveScanOptions& options) {
  constexpr int chunk = static_cast<int>(kScanChunk);
  const auto& u = inputs[0];
  switch (options.rows) {
    case ScanRowsAs::equal:
      return u.shape(0) * std::max((u.shape(1) - 1) / chunk, 0);
    case ScanRowsAs::ragged:
      return u.shape(0) / chunk;
    default:
      return 0;
  }
}

std::pair<mx::array, mx::array> selective_scan(
    const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B, const mx::array& C,
    const std::optional<mx::array>& D, const std::optional<mx::array>& z,
    const std::optional<mx::array>& delta_bias, bool delta_softplus,
    const std::optional<mx::array>& initial_state, const std::optional<mx::array>& cu_seqlens,
    mx::StreamOrDevice stream) {
  return scan("selective_scan", {u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens},
              cu_seqlens ? ScanRowsAs::ragged : ScanRowsAs::equal, delta_softplus, stream);
}

std::pair<mx::array, mx::array> selective_state_update(const mx::array& state, const mx::array& u,
                                                       const mx::array& delta, const mx::array& A,
                                                       const mx::array& B, const mx::array& C,
                                                       const std::optional<mx::array>& D,
                                                       const std::optional<mx::array>& z,
                                                       const std::optional<mx::array>& delta_bias,
                                                       bool delta_softplus, mx::StreamOrDevice stream) {
  const std::optional<mx::array> before = state;
  return scan("selective_state_update", {u, delta, A, B, C, D, z, delta_bias, before, std::nullopt},
              ScanRowsAs::single, delta_softplus, stream);
}

std::pair<mx::array, mx::array> selective_scan_states(
    const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B, const mx::array& C,
    const std::optional<mx::array>& D, const std::optional<mx::array>& z,
    const std::optional<mx::array>& delta_bias, bool delta_softplus,
    const std::optional<mx::array>& initial_state, const std::optional<mx::array>& cu_seqlens,
    mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const ScanOperands operands{u, delta, A, B, C, D, z, delta_bias, initial_state, cu_seqlens};
  const auto options = validate("selective_scan_states", operands,
                                cu_seqlens ? ScanRowsAs::ragged : ScanRowsAs::equal, delta_softplus);
  const Arrays inputs = gather(operands, s);
  if (use_composed(s, Kernels::cpu_and_metal)) {
    const Arrays out = composed_selective_scan_states(options, s)(inputs);
    return {out[0], out[1]};
  }
  const auto primitive = std::make_shared<SelectiveScanStates>(s, options);
  const Arrays out =
      mx::array::make_arrays(primitive->output_shapes(inputs), {u.dtype(), mx::float32}, primitive, inputs);
  return {out[0], out[1]};
}

SelectiveScan::SelectiveScan(mx::Stream stream, SelectiveScanOptions options, bool saving)
    : Primitive(stream, composed_selective_scan(options, saving, stream)),
      options_(options),
      saving_(saving) {}

Arrays SelectiveScan::build(const Arrays& inputs, SelectiveScanOptions options, bool saving, mx::Stream s) {
  const auto primitive = std::make_shared<SelectiveScan>(s, options, saving);
  std::vector<mx::Dtype> dtypes{inputs[0].dtype(), mx::float32};
  if (saving) dtypes.push_back(mx::float32);
  return mx::array::make_arrays(primitive->output_shapes(inputs), dtypes, primitive, inputs);
}

Arrays SelectiveScan::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                          const Arrays& outputs) {
  const mx::Stream s = stream();
  Arrays inputs = primals;
  if (saving_) {
    inputs.push_back(outputs[2]);
  } else if (options_.rows == ScanRowsAs::single) {
    inputs.push_back(mx::zeros({0, primals[2].shape(1), primals[2].shape(0)}, mx::float32, s));
  } else {
    inputs.push_back(build(primals, options_, true, s)[2]);
  }
  inputs.push_back(dense_as(cotangents[0], primals[0].dtype(), s));
  inputs.push_back(dense_float32(cotangents[1], s));
  const auto gradient = std::make_shared<SelectiveScanGrad>(s, options_);
  std::vector<mx::Dtype> dtypes;
  for (int i = 0; i < options_.num_floats(); ++i) dtypes.push_back(primals[static_cast<size_t>(i)].dtype());
  Arrays all = mx::array::make_arrays(gradient->output_shapes(inputs), dtypes, gradient, inputs);
  if (options_.ragged()) all.push_back(mx::zeros_like(primals.back(), s));
  return pick(all, argnums);
}

std::vector<mx::Shape> SelectiveScan::output_shapes(const Arrays& inputs) {
  const int dim = inputs[2].shape(0);
  const int dstate = inputs[2].shape(1);
  std::vector<mx::Shape> shapes{inputs[0].shape(), {batch_of(inputs, options_), dim, dstate}};
  if (saving_) shapes.push_back({num_saved_states(inputs, options_), dstate, dim});
  return shapes;
}

bool SelectiveScan::is_equivalent(const mx::Primitive& other) const {
  const auto& scan = static_cast<const SelectiveScan&>(other);
  return options_ == scan.options_ && saving_ == scan.saving_;
}

SelectiveScanGrad::SelectiveScanGrad(mx::Stream stream, SelectiveScanOptions options)
    : Primitive(stream, composed_selective_scan_grad(options, stream)), options_(options) {}

std::vector<mx::Shape> SelectiveScanGrad::output_shapes(const Arrays& inputs) {
  std::vector<mx::Shape> shapes;
  for (int i = 0; i < options_.num_floats(); ++i) shapes.push_back(inputs[static_cast<size_t>(i)].shape());
  return shapes;
}

bool SelectiveScanGrad::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const SelectiveScanGrad&>(other).options_;
}

SelectiveScanStates::SelectiveScanStates(mx::Stream stream, SelectiveScanOptions options)
    : Primitive(stream, composed_selective_scan_states(options, stream)), options_(options) {}

std::vector<mx::Shape> SelectiveScanStates::output_shapes(const Arrays& inputs) {
  mx::Shape states = inputs[0].shape();
  states.push_back(inputs[2].shape(1));
  return {inputs[0].shape(), states};
}

bool SelectiveScanStates::is_equivalent(const mx::Primitive& other) const {
  return options_ == static_cast<const SelectiveScanStates&>(other).options_;
}

}  // namespace ghost
