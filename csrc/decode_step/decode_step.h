#pragma once

#include <memory>
#include <optional>

#include "codebook_matmul/codebook_matmul.h"
#include "common/coded_matrix.h"
#include "common/primitive.h"

namespace ghost {

// A matrix (rows, columns) in the form that one row of activations is multiplied with fastest.
struct DecodeMatrix {
  // dense: float32. by_row: two-bit codes (rows, columns / 16), a codebook per row. by_column: codes of one
  // codebook, transposed to (columns / 16, rows), so that a vector holds neighbouring rows and nothing is
  // summed across its lanes.
  enum class Form { dense, by_row, by_column };
  Form form;
  int rows;
  int columns;
  mx::array values;
  mx::array codebook;  // float32; unused when dense
  mx::array codes;     // as given, for many rows; unused when dense

  CodedMatrix coded() const {
    return {
        codes.data<uint32_t>(), codebook.data<float>(), rows, columns, form == Form::by_row ? 4 : 0, columns};
  }
};

struct DecodeAttention {
  mx::array norm;
  DecodeMatrix query;
  DecodeMatrix key;
  DecodeMatrix value;
  DecodeMatrix out;
};

struct DecodeLayer {
  mx::array mamba_norm;
  DecodeMatrix in_x;
  DecodeMatrix in_z;
  mx::array conv_weight;  // (width, inner)
  mx::array conv_bias;
  DecodeMatrix x_proj;
  DecodeMatrix dt_proj;
  mx::array dt_bias;
  mx::array A;  // (inner, dstate)
  mx::array D;
  DecodeMatrix out_proj;
  std::optional<DecodeAttention> attention;
  mx::array ffn_norm;
  DecodeMatrix up;
  DecodeMatrix down;
};

// Numbers of the model that no weight shows.
struct DecodeConfig {
  int head_dim;
  int stride;
  float eps;
  bool routing;
  int min_depth;
  int max_depth;
  float threshold;
};

// All weights of a model, with what can be computed once: float32 codebooks, A, transposed filters. Codes
// with a codebook per row share the memory of the arrays they came from.
struct DecodeWeights {
  DecodeConfig config;
  mx::array embedding;
  mx::array conv_weight;  // (width, dim)
  mx::array conv_bias;
  DecodeMatrix project;
  mx::array rate;  // (channels,), after softplus
  mx::array boundary_weight;
  mx::array boundary_bias;
  mx::array router_norm;
  DecodeMatrix cheap_in;
  DecodeMatrix cheap_out;
  mx::array context;
  mx::array bias;
  mx::array importance;
  mx::array norm;
  DecodeMatrix head;
  std::vector<DecodeLayer> layers;
};

// One array each, or codes and codebook of a two-bit matrix.
using DecodeParts = std::vector<Arrays>;

// Evaluates what it makes of a model's weights:
//   model: embedding, conv_weight, conv_bias, project, rate, boundary_weight, boundary_bias, router norm,
//     cheap_in, cheap_out, context, bias, importance, norm, head;
//   layers: mamba_norm, in_x, in_z, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A_log, D, out_proj,
//   [norm,
//     query, key, value and out of the attention,] ffn_norm, up, down.
std::shared_ptr<const DecodeWeights> decode_weights(const DecodeParts& model,
                                                    const std::vector<DecodeParts>& layers,
                                                    DecodeConfig config);

// One piece of a step: layers [first, last), before them the tokenizer and the cheap predictor if `front`,
// after them norm and head if last is the number of layers. Two-bit products of several bytes are computed in
// the given mode, of single ones in float32.
struct DecodePiece {
  int first;
  int last;
  bool front;
  Activation activation = Activation::float32;

  bool at_end(const DecodeWeights& w) const { return last == static_cast<int>(w.layers.size()); }
  // Where the states begin among the inputs.
  size_t first_state(const DecodeWeights& w) const { return !front && w.config.routing ? 2 : 1; }
};

// True where decode_step() serves: on CPU streams, unless composed forms are asked for. It has no gradient,
// so no array may be traced.
bool decode_available(const Arrays& arrays);

// True where several bytes at once may be computed in this mode: float32 always, the others where the CPU has
// the instructions.
bool prefill_available(const DecodeWeights& weights, Activation activation);

// Advances every stream of a batch by seqlen >= 1 bytes, at once and without a graph: it returns evaluated
// arrays.
//
// Inputs: tokens (batch, seqlen) int32 with front, else h (batch, seqlen, dim); without front but with
// routing depth (batch, seqlen); then states. Outputs: states; with front and routing depth; logits (batch,
// seqlen, 256) at the end of the layers, else h. States: with front conv (batch, width - 1, dim), ssm (batch,
// channels, 1) and last (batch, 1, channels) of the tokenizer, and cheap (batch, 1, 256); for each layer conv
// (batch, width - 1, inner), ssm (batch, inner, dstate) and with attention window_k, window_v (batch, stride,
// dim), recent_k, recent_v (batch, under stride, dim), strided_k, strided_v (batch, capacity, dim) and count
// (batch,) int32. The window, newest last, is as of before the recent rows, which are the last ones of every
// sequence: a step copies these few rows and only every 16th step a window, for the old state stays as it
// was.
Arrays decode_step(const DecodeWeights& weights, DecodePiece piece, const Arrays& inputs);

// The inputs checked, dense and evaluated.
Arrays decode_inputs(const DecodeWeights& weights, DecodePiece piece, const Arrays& inputs);

}  // namespace ghost
