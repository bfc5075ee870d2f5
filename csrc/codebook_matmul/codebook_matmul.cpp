#include "codebook_matmul/codebook_matmul.h"

#include <algorithm>
#include <optional>

#include "codebook_matmul/codebook_matmul_composed.h"

namespace ghost {
namespace {

constexpr const char* kMatmul = "codebook_matmul";
constexpr const char* kLatent = "codebook_matmul_latent";
constexpr const char* kAssign = "codebook_assign";
constexpr const char* kDequantize = "codebook_dequantize";
constexpr const char* kBucketSum = "bucket_sum";

void require_codes(const char* op, const mx::array& codes) {
  require(codes.dtype() == mx::uint32, op, "codes has the wrong dtype, given ", codes.dtype(),
          ", allowed: uint32.");
  require_shape(op, "codes", codes, {-1, -1}, "(N, K / 16)");
}

bool is_group_size(int size) { return size == 32 || size == 64 || size == 128; }

// A codebook for a weight of `rows` by `columns`.
void require_codebook(const char* op, const mx::array& codebook, int rows, int columns) {
  require_io_dtype(op, "codebook", codebook);
  const bool shared = codebook.ndim() == 1 && codebook.shape(0) == 4;
  const bool by_row = codebook.ndim() == 3 && codebook.shape(0) == rows && codebook.shape(2) == 4;
  const int groups = by_row ? codebook.shape(1) : 0;
  const bool grouped =
      groups > 0 && columns % groups == 0 && (groups == 1 || is_group_size(columns / groups));
  require(shared || grouped, op, "codebook has the wrong shape, given ", shape_text(codebook.shape()),
          ", allowed: (4,), (N, 1, 4) or (N, K / group_size, 4) with group_size 32, 64 or 128, here N = ",
          rows, " and K = ", columns, ".");
}

void require_last(const char* op, const char* name, const mx::array& x, int size, const char* meaning) {
  require(x.ndim() >= 1 && x.shape(-1) == size, op, name, " has the wrong shape, given ",
          shape_text(x.shape()), ", allowed: ", meaning, " = ", size, ".");
}

void require_latent(const char* op, const char* name, const mx::array& w, const mx::array& codebook) {
  require_io_dtype(op, name, w);
  require_shape(op, name, w, {-1, -1}, "(N, K)");
  require(w.shape(1) % 16 == 0, op, name, " has the wrong shape, given ", shape_text(w.shape()),
          ", allowed: (N, K) with K a multiple of 16.");
  require_codebook(op, codebook, w.shape(0), w.shape(1));
}

mx::Shape product_shape(const mx::array& x, int size) {
  mx::Shape shape = x.shape();
  shape.back() = size;
  return shape;
}

// x (..., K or N), codes, codebook, all contiguous. The codebook is float32, or on the CPU and where it is
// not differentiated any float.
mx::array product(const Arrays& inputs, bool transpose, Activation activation, mx::Stream s) {
  const ComposedForm composed = codebook_composed::matmul(transpose, activation, s);
  if (use_composed(s, Kernels::cpu_and_metal)) return composed(inputs)[0];
  const int64_t size = transpose ? inputs[1].shape(0) : 16 * inputs[1].shape(1);
  return outputs_of(std::make_shared<CodebookMatmul>(s, composed, transpose, activation), inputs,
                    {inputs[0].dtype()}, static_cast<int64_t>(inputs[0].size()) * size)[0];
}

mx::array codebook_gradient(const mx::array& left, const mx::array& right, const mx::array& codes,
                            const mx::array& codebook, mx::Stream s) {
  const Arrays inputs{dense(left, s), dense(right, s), codes, codebook};
  const ComposedForm composed = codebook_composed::gradient(s);
  return mx::array(codebook.shape(), mx::float32, std::make_shared<CodebookGrad>(s, composed), inputs);
}

mx::array assigned(const mx::array& w, const mx::array& codebook, mx::Stream s) {
  const Arrays inputs{dense_float32(w, s), dense_float32(codebook, s)};
  const ComposedForm composed = codebook_composed::assign(s);
  if (use_composed(s, Kernels::cpu_and_metal)) return composed(inputs)[0];
  return mx::array({w.shape(0), w.shape(1) / 16}, mx::uint32, std::make_shared<CodebookAssign>(s, composed),
                   inputs);
}

mx::array dequantized(const mx::array& codes, const mx::array& codebook, mx::Dtype dtype, mx::Stream s) {
  const Arrays inputs{dense(codes, s), dense_float32(codebook, s)};
  const ComposedForm composed = codebook_composed::dequantize(dtype, s);
  if (use_composed(s, Kernels::cpu_and_metal)) return composed(inputs)[0];
  return mx::array({codes.shape(0), 16 * codes.shape(1)}, dtype,
                   std::make_shared<CodebookDequantize>(s, composed, dtype), inputs);
}

mx::array bucket_sums(const mx::array& dw, const mx::array& codes, int groups, mx::Stream s) {
  const Arrays inputs{dense_float32(dw, s), dense(codes, s)};
  const ComposedForm composed = codebook_composed::bucket_sums(groups, s);
  if (use_composed(s, Kernels::cpu_and_metal)) return composed(inputs)[0];
  return mx::array({codes.shape(0), groups, 4}, mx::float32, std::make_shared<BucketSum>(s, composed, groups),
                   inputs);
}

[[noreturn]] void fail_codes_gradient(const char* op, const char* allowed) {
  fail(op, "no gradient with respect to codes, given integers, allowed: ", allowed, ".");
}

}  // namespace

mx::array codebook_matmul(const mx::array& x, const mx::array& codes, const mx::array& codebook,
                          bool transpose, const std::string& activation, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const Activation mode = parse_activation(kMatmul, activation, true);
  require_io_dtype(kMatmul, "x", x);
  require_codes(kMatmul, codes);
  const int rows = codes.shape(0);
  const int columns = 16 * codes.shape(1);
  require_codebook(kMatmul, codebook, rows, columns);
  require_last(kMatmul, "x", x, transpose ? columns : rows,
               transpose ? "(..., K) with K" : "(..., N) with N");
  const bool any_float = !on_gpu(s) && !force_composed() && !codebook.is_tracer();
  const auto levels = any_float ? dense(codebook, s) : dense_float32(codebook, s);
  return product({dense(x, s), dense(codes, s), levels}, transpose, mode, s);
}

mx::array codebook_matmul_latent(const mx::array& x, const mx::array& weight, const mx::array& codebook,
                                 const std::string& activation, bool half_levels, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  const Activation mode = parse_activation(kLatent, activation, false);
  require_io_dtype(kLatent, "x", x);
  require_latent(kLatent, "weight", weight, codebook);
  require_last(kLatent, "x", x, weight.shape(1), "(..., K) with K");
  Arrays inputs{dense(x, s), dense_float32(weight, s), dense_float32(codebook, s)};
  if (use_composed(s, Kernels::cpu_and_metal)) return codebook_composed::latent(half_levels, s)(inputs)[0];
  if (half_levels && on_gpu(s)) {
    inputs[2] = dense(codebook_composed::half_levels(inputs[2], s), s);
    half_levels = false;
  }
  const auto primitive =
      std::make_shared<CodebookMatmulLatent>(s, codebook_composed::latent(half_levels, s), mode, half_levels);
  return outputs_of(primitive, inputs, {x.dtype(), mx::uint32})[0];
}

mx::array codebook_assign(const mx::array& w, const mx::array& codebook, mx::StreamOrDevice stream) {
  require_latent(kAssign, "w", w, codebook);
  const mx::Stream s = mx::to_stream(stream);
  return mx::stop_gradient(assigned(w, codebook, s), s);
}

mx::array codebook_dequantize(const mx::array& codes, const mx::array& codebook, mx::Dtype dtype,
                              mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_codes(kDequantize, codes);
  require_codebook(kDequantize, codebook, codes.shape(0), 16 * codes.shape(1));
  require(is_io_dtype(dtype), kDequantize, "wrong dtype, given ", dtype,
          ", allowed: float32, float16, bfloat16.");
  return dequantized(codes, codebook, dtype, s);
}

mx::array bucket_sum(const mx::array& dw, const mx::array& codes, int groups, mx::StreamOrDevice stream) {
  const mx::Stream s = mx::to_stream(stream);
  require_io_dtype(kBucketSum, "dw", dw);
  require_codes(kBucketSum, codes);
  const int columns = 16 * codes.shape(1);
  require_shape(kBucketSum, "dw", dw, {codes.shape(0), columns}, "(N, K), those of codes,");
  require(groups > 0 && columns % groups == 0 && (groups == 1 || is_group_size(columns / groups)), kBucketSum,
          "wrong number of groups, given ", groups,
          ", allowed: 1, or K / 32, K / 64 or K / 128 with K = ", columns, ".");
  return bucket_sums(dw, codes, groups, s);
}

Arrays CodebookMatmul::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                           const Arrays&) {
  const auto& x = primals[0];
  const auto dy = dense_as(cotangents[0], primals[0].dtype(), stream());
  Arrays gradients;
  for (int argnum : argnums) {
    if (argnum == 0) {
      gradients.push_back(product({dy, primals[1], primals[2]}, !transpose_, Activation::float32, stream()));
    } else if (argnum == 2) {
      gradients.push_back(
          codebook_gradient(transpose_ ? dy : x, transpose_ ? x : dy, primals[1], primals[2], stream()));
    } else {
      fail_codes_gradient(kMatmul, "x and codebook");
    }
  }
  return gradients;
}

// Linear in x and in the codebook.
Arrays CodebookMatmul::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  std::optional<mx::array> total;
  for (size_t i = 0; i < argnums.size(); ++i) {
    if (argnums[i] == 1) fail_codes_gradient(kMatmul, "x and codebook");
    Arrays inputs = primals;
    inputs[static_cast<size_t>(argnums[i])] =
        dense_as(tangents[i], inputs[static_cast<size_t>(argnums[i])].dtype(), stream());
    const auto term = product(inputs, transpose_, Activation::float32, stream());
    total = total ? mx::add(*total, term, stream()) : term;
  }
  return {*total};
}

std::pair<Arrays, std::vector<int>> CodebookMatmul::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  // Batched rows against one weight are just more rows.
  if (axes[0] < 0 || axes[1] >= 0 || axes[2] >= 0) return Primitive::vmap(inputs, axes);
  const auto x = dense(mx::moveaxis(inputs[0], axes[0], 0, stream()), stream());
  return {{product({x, inputs[1], inputs[2]}, transpose_, activation_, stream())}, {0}};
}

std::vector<mx::Shape> CodebookMatmul::output_shapes(const Arrays& inputs) {
  return {product_shape(inputs[0], transpose_ ? inputs[1].shape(0) : 16 * inputs[1].shape(1))};
}

bool CodebookMatmul::is_equivalent(const mx::Primitive& other) const {
  const auto& o = static_cast<const CodebookMatmul&>(other);
  return transpose_ == o.transpose_ && activation_ == o.activation_;
}

std::vector<mx::Shape> CodebookGrad::output_shapes(const Arrays& inputs) { return {inputs[3].shape()}; }

Arrays CodebookMatmulLatent::vjp(const Arrays& primals, const Arrays& cotangents,
                                 const std::vector<int>& argnums, const Arrays& outputs) {
  const auto wants = [&](int i) { return std::find(argnums.begin(), argnums.end(), i) != argnums.end(); };
  const CodebookMatmulLatentGrad::Wanted wanted{wants(0), wants(1), wants(2)};
  const Arrays inputs{primals[0], mx::stop_gradient(outputs[1], stream()), primals[2],
                      dense_as(cotangents[0], primals[0].dtype(), stream())};
  const auto gradient = std::make_shared<CodebookMatmulLatentGrad>(
      stream(), codebook_composed::latent_gradient(wanted, half_levels_, stream()), wanted, activation_,
      half_levels_);
  // Outputs come in the order of the inputs, argnums in any.
  std::vector<int> order;
  for (int i = 0; i < 3; ++i) {
    if (wants(i)) order.push_back(i);
  }
  std::vector<mx::Dtype> dtypes;
  for (int i : order) dtypes.push_back(primals[static_cast<size_t>(i)].dtype());
  const Arrays out = mx::array::make_arrays(gradient->output_shapes(inputs), dtypes, gradient, inputs);
  Arrays gradients;
  for (int argnum : argnums) {
    const auto at = std::find(order.begin(), order.end(), argnum) - order.begin();
    gradients.push_back(out[static_cast<size_t>(at)]);
  }
  return gradients;
}

std::pair<Arrays, std::vector<int>> CodebookMatmulLatent::vmap(const Arrays& inputs,
                                                               const std::vector<int>& axes) {
  if (axes[0] < 0 || axes[1] >= 0 || axes[2] >= 0) return Primitive::vmap(inputs, axes);
  Arrays rows = inputs;
  rows[0] = dense(mx::moveaxis(inputs[0], axes[0], 0, stream()), stream());
  const auto primitive =
      std::make_shared<CodebookMatmulLatent>(stream(), composed(), activation_, half_levels_);
  return {outputs_of(primitive, rows, {rows[0].dtype(), mx::uint32}), {0, -1}};
}

std::vector<mx::Shape> CodebookMatmulLatent::output_shapes(const Arrays& inputs) {
  return {product_shape(inputs[0], inputs[1].shape(0)), {inputs[1].shape(0), inputs[1].shape(1) / 16}};
}

bool CodebookMatmulLatent::is_equivalent(const mx::Primitive& other) const {
  const auto& o = static_cast<const CodebookMatmulLatent&>(other);
  return activation_ == o.activation_ && half_levels_ == o.half_levels_;
}

std::vector<mx::Shape> CodebookMatmulLatentGrad::output_shapes(const Arrays& inputs) {
  std::vector<mx::Shape> shapes;
  if (wanted_.x) shapes.push_back(inputs[0].shape());
  if (wanted_.weight) shapes.push_back({inputs[1].shape(0), 16 * inputs[1].shape(1)});
  if (wanted_.codebook) shapes.push_back(inputs[2].shape());
  return shapes;
}

bool CodebookMatmulLatentGrad::is_equivalent(const mx::Primitive& other) const {
  const auto& o = static_cast<const CodebookMatmulLatentGrad&>(other);
  return wanted_ == o.wanted_ && activation_ == o.activation_ && half_levels_ == o.half_levels_;
}

std::vector<mx::Shape> CodebookAssign::output_shapes(const Arrays& inputs) {
  return {{inputs[0].shape(0), inputs[0].shape(1) / 16}};
}

// Linear in the codebook.
Arrays CodebookDequantize::jvp(const Arrays& primals, const Arrays& tangents,
                               const std::vector<int>& argnums) {
  if (argnums.size() != 1 || argnums[0] != 1) fail_codes_gradient(kDequantize, "codebook");
  return {dequantized(primals[0], tangents[0], dtype_, stream())};
}

Arrays CodebookDequantize::vjp(const Arrays& primals, const Arrays& cotangents,
                               const std::vector<int>& argnums, const Arrays&) {
  if (argnums.size() != 1 || argnums[0] != 1) fail_codes_gradient(kDequantize, "codebook");
  const auto& codebook = primals[1];
  const bool shared = codebook.ndim() == 1;
  const auto sums = bucket_sums(cotangents[0], primals[0], shared ? 1 : codebook.shape(1), stream());
  return {shared ? mx::sum(sums, std::vector<int>{0, 1}, false, stream()) : sums};
}

std::vector<mx::Shape> CodebookDequantize::output_shapes(const Arrays& inputs) {
  return {{inputs[0].shape(0), 16 * inputs[0].shape(1)}};
}

bool CodebookDequantize::is_equivalent(const mx::Primitive& other) const {
  return dtype_ == static_cast<const CodebookDequantize&>(other).dtype_;
}

// Linear in dw.
Arrays BucketSum::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  if (argnums.size() != 1 || argnums[0] != 0) fail_codes_gradient(kBucketSum, "dw");
  return {bucket_sums(tangents[0], primals[1], groups_, stream())};
}

Arrays BucketSum::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                      const Arrays&) {
  if (argnums.size() != 1 || argnums[0] != 0) fail_codes_gradient(kBucketSum, "dw");
  return {dequantized(primals[1], cotangents[0], mx::float32, stream())};
}

std::vector<mx::Shape> BucketSum::output_shapes(const Arrays& inputs) {
  return {{inputs[1].shape(0), groups_, 4}};
}

bool BucketSum::is_equivalent(const mx::Primitive& other) const {
  return groups_ == static_cast<const BucketSum&>(other).groups_;
}

}  // namespace ghost
