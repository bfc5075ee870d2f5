#include "causal_conv1d/causal_conv1d.h"
#include "causal_conv1d/causal_conv1d_kernels.h"
#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/sequences.h"

namespace ghost {
namespace {

constexpr int64_t kTileRows = 128;  // rows per task: about 256 KiB of float32 at dim 512, an L2's worth

struct Tile {
  int64_t sequence;
  int64_t t0;
  int64_t t1;
};

std::vector<Span> spans_of(const Arrays& inputs, const CausalConv1dOptions& options) {
  const auto& x = inputs[0];
  if (!options.ragged) return equal_spans(x.shape(0), x.shape(1));
  return ragged_spans(inputs[4].data<int32_t>(), inputs[4].size() - 1, x.shape(0));
}

std::vector<Tile> tiles_of(const std::vector<Span>& spans) {
  std::vector<Tile> tiles;
  for (size_t b = 0; b < spans.size(); ++b) {
    for (int64_t t = 0; t < spans[b].length(); t += kTileRows) {
      tiles.push_back({static_cast<int64_t>(b), t, std::min(t + kTileRows, spans[b].length())});
    }
  }
  return tiles;
}

// weight (dim, width) to (width, dim).
std::vector<float> transposed(const mx::array& weight) {
  const int64_t dim = weight.shape(0);
  const int64_t width = weight.shape(1);
  std::vector<float> out(static_cast<size_t>(dim * width));
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t k = 0; k < width; ++k) {
      out[static_cast<size_t>(k * dim + d)] = weight.data<float>()[d * width + k];
    }
  }
  return out;
}

template <class T>
CausalConv1dRows<T> rows_of(const Arrays& inputs, const std::vector<float>& weight, Span span,
                            int64_t sequence, const CausalConv1dOptions& options) {
  const int64_t dim = inputs[1].shape(0);
  const int width = inputs[1].shape(1);
  return {in_ptr<T>(inputs[0]) + span.begin * dim,
          in_ptr<T>(inputs[3]) + (options.has_state ? sequence * (width - 1) * dim : 0),
          weight.data(),
          inputs[2].data<float>(),
          span.length(),
          dim,
          width,
          options.silu};
}

template <class T>
void forward(const Arrays& inputs, mx::array& y, mx::array& last_state, const CausalConv1dOptions& options) {
  const auto spans = spans_of(inputs, options);
  const auto tiles = tiles_of(spans);
  const auto weight = transposed(inputs[1]);
  const int64_t dim = inputs[1].shape(0);
  const int64_t keep = inputs[1].shape(1) - 1;
  const auto& kernels = causal_conv1d_kernels().get<T>();
  zero_gaps(out_ptr<T>(y), spans, static_cast<int64_t>(y.size()) / std::max<int64_t>(dim, 1), dim);
  parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t i) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    const Span span = spans[static_cast<size_t>(tile.sequence)];
    const auto rows = rows_of<T>(inputs, weight, span, tile.sequence, options);
    kernels.forward(rows, out_ptr<T>(y) + span.begin * dim, tile.t0, tile.t1);
  });
  for (size_t b = 0; b < spans.size(); ++b) {
    const auto rows = rows_of<T>(inputs, weight, spans[b], static_cast<int64_t>(b), options);
    for (int64_t k = 0; k < keep; ++k) {
      const int64_t j = rows.seqlen + k;
      const T* from = j < keep ? rows.state + j * dim : rows.x + (j - keep) * dim;
      std::copy(from, from + dim, out_ptr<T>(last_state) + (static_cast<int64_t>(b) * keep + k) * dim);
    }
  }
}

template <class T>
void backward(const Arrays& inputs, Arrays& outputs, const CausalConv1dOptions& options) {
  const auto spans = spans_of(inputs, options);
  const auto tiles = tiles_of(spans);
  const auto weight = transposed(inputs[1]);
  const int64_t dim = inputs[1].shape(0);
  const int64_t width = inputs[1].shape(1);
  const T* dy = in_ptr<T>(inputs[inputs.size() - 2]);
  const T* dlast = in_ptr<T>(inputs[inputs.size() - 1]);
  const auto& kernels = causal_conv1d_kernels().get<T>();
  T* dx = out_ptr<T>(outputs[0]);
  T* dstate = out_ptr<T>(outputs[3]);
  zero_gaps(dx, spans, static_cast<int64_t>(inputs[0].size()) / std::max<int64_t>(dim, 1), dim);

  const int64_t partial_size = (width + 1) * dim;
  std::vector<float> partials(tiles.size() * static_cast<size_t>(partial_size));
  parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t i) {
    const Tile& tile = tiles[static_cast<size_t>(i)];
    const Span span = spans[static_cast<size_t>(tile.sequence)];
    const auto rows = rows_of<T>(inputs, weight, span, tile.sequence, options);
    const T* dlast_rows = dlast + tile.sequence * (width - 1) * dim;
    kernels.input_grad(rows, dy + span.begin * dim, dlast_rows, dx + span.begin * dim, tile.t0, tile.t1);
    kernels.weight_grad(rows, dy + span.begin * dim, tile.t0, tile.t1, partials.data() + i * partial_size);
  });
  if (!options.has_state) std::fill(dstate, dstate + outputs[3].size(), T{});
  parallel_for(options.has_state ? static_cast<int64_t>(spans.size()) : 0, [&](int64_t b) {
    const Span span = spans[static_cast<size_t>(b)];
    const int64_t offset = b * (width - 1) * dim;
    kernels.state_grad(rows_of<T>(inputs, weight, span, b, options), dy + span.begin * dim, dlast + offset,
                       dstate + offset);
  });

  // Fixed order over tiles: the same bits for any number of threads.
  float* dweight = outputs[1].data<float>();
  float* dbias = outputs[2].data<float>();
  std::fill(dweight, dweight + dim * width, 0.0f);
  std::fill(dbias, dbias + dim, 0.0f);
  for (size_t i = 0; i < tiles.size(); ++i) {
    const float* partial = partials.data() + static_cast<int64_t>(i) * partial_size;
    for (int64_t k = 0; k < width; ++k) {
      for (int64_t d = 0; d < dim; ++d) dweight[d * width + k] += partial[k * dim + d];
    }
    for (int64_t d = 0; d < dim; ++d) dbias[d] += partial[width * dim + d];
  }
}

}  // namespace

void CausalConv1d::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { forward<T>(in, out[0], out[1], options); });
  });
}

void CausalConv1dGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { backward<T>(in, out, options); });
  });
}

}  // namespace ghost
