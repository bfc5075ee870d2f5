#include "decode_step/decode_step.h"

#include <algorithm>
#include <string>

namespace ghost {
namespace {

constexpr const char* kOp = "decode_step";
constexpr size_t kModelParts = 15;
constexpr size_t kLayerParts = 14;
constexpr size_t kAttentionParts = 5;
mx::Stream cpu_stream() { return mx::default_stream(mx::Device(mx::Device::cpu)); }

// Walks over the parts of a model or layer in their order.
class Reader {
 public:
  explicit Reader(const DecodeParts& parts) : parts_(parts) {}

  mx::array vector() {
    const Arrays& part = parts_[at_++];
    require(part.size() == 1, kOp, "a part that is no matrix has several arrays.");
    return dense_float32(part[0], cpu_stream());
  }

  mx::array transposed() {
    const auto s = cpu_stream();
    const auto x = vector();
    require(x.ndim() == 2, kOp, "conv_weight has the wrong shape, given ", shape_text(x.shape()),
            ", allowed: (dim, width).");
    return mx::contiguous(mx::transpose(x, s), false, s);
  }

  DecodeMatrix matrix() {
    const auto s = cpu_stream();
    const Arrays& part = parts_[at_];
    if (part.size() == 1) {
      const auto weight = vector();
      require(weight.ndim() == 2, kOp, "a matrix has the wrong shape, given ", shape_text(weight.shape()),
              ", allowed: (N, K).");
      return {DecodeMatrix::Form::dense, weight.shape(0), weight.shape(1), weight, weight, weight};
    }
    ++at_;
    require(part.size() == 2 && part[0].dtype() == mx::uint32 && part[0].ndim() == 2, kOp,
            "a two-bit matrix is codes (N, K / 16) uint32 and a codebook.");
    const auto codes = dense(part[0], s);
    const auto codebook = dense_float32(part[1], s);
    const int rows = codes.shape(0);
    const int columns = 16 * codes.shape(1);
    if (codebook.ndim() == 1) {
      const auto turned = mx::contiguous(mx::transpose(codes, s), false, s);
      return {DecodeMatrix::Form::by_column, rows, columns, turned, codebook, codes};
    }
    require(codebook.ndim() == 3 && codebook.shape(0) == rows && codebook.shape(1) == 1, kOp,
            "a codebook has the wrong shape, given ", shape_text(codebook.shape()),
            ", allowed: (4,) or (N, 1, 4).");
    return {DecodeMatrix::Form::by_row, rows, columns, codes, codebook, codes};
  }

 private:
  const DecodeParts& parts_;
  size_t at_ = 0;
};

DecodeLayer read_layer(const DecodeParts& parts) {
  const bool attends = parts.size() == kLayerParts + kAttentionParts;
  require(attends || parts.size() == kLayerParts, kOp, "a layer has the wrong number of parts, given ",
          parts.size(), ".");
  const auto s = cpu_stream();
  Reader read(parts);
  // Braces evaluate from left to right, which is the order of the parts.
  return DecodeLayer{read.vector(),
                     read.matrix(),
                     read.matrix(),
                     read.transposed(),
                     read.vector(),
                     read.matrix(),
                     read.matrix(),
                     read.vector(),
                     mx::negative(mx::exp(read.vector(), s), s),
                     read.vector(),
                     read.matrix(),
                     attends ? std::optional<DecodeAttention>(DecodeAttention{
                                   read.vector(), read.matrix(), read.matrix(), read.matrix(), read.matrix()})
                             : std::nullopt,
                     read.vector(),
                     read.matrix(),
                     read.matrix()};
}

void add(Arrays& all, const DecodeMatrix& m) {
  all.push_back(m.values);
  all.push_back(m.codebook);
  all.push_back(m.codes);
}

Arrays arrays_of(const DecodeWeights& w) {
  Arrays all{w.embedding,     w.conv_weight, w.conv_bias, w.rate, w.boundary_weight,
             w.boundary_bias, w.router_norm, w.context,   w.bias, w.importance,
             w.norm};
  for (const auto* m : {&w.project, &w.cheap_in, &w.cheap_out, &w.head}) add(all, *m);
  for (const auto& l : w.layers) {
    const Arrays vectors{l.mamba_norm, l.conv_weight, l.conv_bias, l.dt_bias, l.A, l.D, l.ffn_norm};
    all.insert(all.end(), vectors.begin(), vectors.end());
    for (const auto* m : {&l.in_x, &l.in_z, &l.x_proj, &l.dt_proj, &l.out_proj, &l.up, &l.down}) add(all, *m);
    if (!l.attention) continue;
    all.push_back(l.attention->norm);
    const auto& a = *l.attention;
    for (const auto* m : {&a.query, &a.key, &a.value, &a.out}) add(all, *m);
  }
  return all;
}

void require_part(const char* name, const mx::array& x, const mx::Shape& shape) {
  require_shape(kOp, name, x, shape, "that of a model of these widths, here");
}

void require_matrix(const char* name, const DecodeMatrix& m, int rows, int columns) {
  require((rows < 0 || m.rows == rows) && m.columns == columns, kOp, name, " has the wrong shape, given (",
          m.rows, ", ", m.columns, "), allowed: (", rows < 0 ? std::string("any") : std::to_string(rows),
          ", ", columns, ").");
}

void require_filter(const mx::array& weight, const mx::array& bias, int dim) {
  require_part("conv_weight, transposed,", weight, {-1, dim});
  require(weight.shape(0) >= 2, kOp, "conv_weight is too narrow, given ", weight.shape(0),
          ", allowed: 2 or more.");
  require_part("conv_bias", bias, {dim});
}

// The kernels trust these shapes.
void check_layer(const DecodeLayer& l, int dim) {
  require(l.A.ndim() == 2, kOp, "A_log has the wrong shape, given ", shape_text(l.A.shape()),
          ", allowed: (inner, dstate).");
  const int inner = l.A.shape(0);
  const int rank = l.dt_proj.columns;
  require_part("mamba_norm", l.mamba_norm, {dim});
  require_matrix("in_proj_x", l.in_x, inner, dim);
  require_matrix("in_proj_z", l.in_z, inner, dim);
  require_filter(l.conv_weight, l.conv_bias, inner);
  require_matrix("x_proj", l.x_proj, rank + 2 * l.A.shape(1), inner);
  require_matrix("dt_proj", l.dt_proj, inner, rank);
  require_part("dt_bias", l.dt_bias, {inner});
  require_part("D", l.D, {inner});
  require_matrix("out_proj", l.out_proj, dim, inner);
  if (const auto& a = l.attention) {
    require_part("attention_norm", a->norm, {dim});
    for (const auto* m : {&a->query, &a->key, &a->value, &a->out}) require_matrix("attention", *m, dim, dim);
  }
  require_part("ffn_norm", l.ffn_norm, {dim});
  require_matrix("up", l.up, -1, dim);
  require_matrix("down", l.down, dim, l.up.rows);
}

void check_model(const DecodeWeights& w) {
  require_part("embedding", w.embedding, {-1, -1});
  const int dim = w.embedding.shape(1);
  const int channels = w.project.rows;
  require(w.config.head_dim >= 1 && dim % w.config.head_dim == 0 && w.config.stride >= 1, kOp,
          "head_dim does not divide dim, or stride is below 1, given ", w.config.head_dim, " and ",
          w.config.stride, " with dim = ", dim, ".");
  require_filter(w.conv_weight, w.conv_bias, dim);
  require_matrix("project", w.project, -1, dim);
  require_part("rate", w.rate, {channels});
  require_part("boundary_weight", w.boundary_weight, {channels});
  require_part("boundary_bias", w.boundary_bias, {});
  require_part("router norm", w.router_norm, {dim});
  require_matrix("cheap_in", w.cheap_in, -1, dim);
  require_matrix("cheap_out", w.cheap_out, dim, w.cheap_in.rows);
  require_part("context", w.context, {dim});
  require_part("bias", w.bias, {});
  require_part("importance", w.importance, {w.embedding.shape(0)});
  require_part("norm", w.norm, {dim});
  require_matrix("head", w.head, 256, dim);
  for (const auto& layer : w.layers) check_layer(layer, dim);
}

struct StateShape {
  mx::Shape shape;  // -1: any number of rows
  mx::Dtype dtype = mx::float32;
};

std::vector<StateShape> state_shapes(const DecodeWeights& w, const DecodePiece& piece, int batch) {
  std::vector<StateShape> shapes;
  const int dim = w.embedding.shape(1);
  if (piece.front) {
    const int channels = w.project.rows;
    shapes.push_back({{batch, w.conv_weight.shape(0) - 1, dim}});
    shapes.push_back({{batch, channels, 1}});
    shapes.push_back({{batch, 1, channels}});
    shapes.push_back({{batch, 1, w.head.rows}});
  }
  for (int l = piece.first; l < piece.last; ++l) {
    const DecodeLayer& layer = w.layers[static_cast<size_t>(l)];
    const int inner = layer.A.shape(0);
    shapes.push_back({{batch, layer.conv_weight.shape(0) - 1, inner}});
    shapes.push_back({{batch, inner, layer.A.shape(1)}});
    if (!layer.attention) continue;
    for (int i = 0; i < 2; ++i) shapes.push_back({{batch, w.config.stride, dim}});
    for (int i = 0; i < 4; ++i) shapes.push_back({{batch, -1, dim}});
    shapes.push_back({{batch}, mx::int32});
  }
  return shapes;
}

}  // namespace

std::shared_ptr<const DecodeWeights> decode_weights(const DecodeParts& model,
                                                    const std::vector<DecodeParts>& layers,
                                                    DecodeConfig config) {
  require(model.size() == kModelParts, kOp, "a model has the wrong number of parts, given ", model.size(),
          ", allowed: ", kModelParts, ".");
  const auto s = cpu_stream();
  Reader read(model);
  auto weights =
      std::make_shared<DecodeWeights>(DecodeWeights{config,
                                                    read.vector(),
                                                    read.transposed(),
                                                    read.vector(),
                                                    read.matrix(),
                                                    mx::logaddexp(read.vector(), mx::array(0.0f), s),
                                                    read.vector(),
                                                    read.vector(),
                                                    read.vector(),
                                                    read.matrix(),
                                                    read.matrix(),
                                                    read.vector(),
                                                    read.vector(),
                                                    read.vector(),
                                                    read.vector(),
                                                    read.matrix(),
                                                    {}});
  for (const auto& parts : layers) weights->layers.push_back(read_layer(parts));
  check_model(*weights);
  mx::eval(arrays_of(*weights));
  return weights;
}

bool decode_available(const Arrays& arrays) {
  return !use_composed(mx::to_stream({}), Kernels::cpu) && !any_tracer(arrays);
}

Arrays decode_inputs(const DecodeWeights& w, DecodePiece piece, const Arrays& given) {
  require(!given.empty() && given[0].ndim() > 1 && given[0].shape(1) > 0 && 0 <= piece.first &&
              piece.first <= piece.last && piece.last <= static_cast<int>(w.layers.size()),
          kOp, "no inputs, or layers ", piece.first, " to ", piece.last, " of ", w.layers.size(), ".");
  const int batch = given[0].shape(0), seqlen = given[0].shape(1);
  const auto states = state_shapes(w, piece, batch);
  const size_t first = piece.first_state(w);
  require(given.size() == first + states.size(), kOp, "wrong number of inputs, given ", given.size(),
          ", allowed: ", first + states.size(), ".");
  Arrays inputs;
  inputs.reserve(given.size());
  bool ready = true;
  for (size_t i = 0; i < given.size(); ++i) {
    const bool is_state = i >= first;
    const bool tokens = piece.front && i == 0;
    const mx::Shape shape = is_state            ? states[i - first].shape
                            : i == 0 && !tokens ? mx::Shape{batch, seqlen, w.embedding.shape(1)}
                                                : mx::Shape{batch, seqlen};
    const mx::Dtype dtype = is_state ? states[i - first].dtype : tokens ? mx::int32 : mx::float32;
    require_shape(kOp, "an input", given[i], shape, "those of this model and batch, here");
    require(given[i].dtype() == dtype, kOp, "an input has the wrong dtype, given ", given[i].dtype(),
            ", allowed: ", dtype, ".");
    const bool is_ready = given[i].is_available() && given[i].flags().row_contiguous;
    inputs.push_back(is_ready ? given[i] : dense(given[i], mx::to_stream({})));
    ready = ready && is_ready;
  }
  if (!ready) mx::eval(inputs);
  return inputs;
}

}  // namespace ghost
