#include <optional>
#include <vector>

#include "causal_conv1d/causal_conv1d_kernels.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"
#include "common/sequences.h"
#include "cross_entropy/cross_entropy_kernels.h"
#include "decode_step/decode_step_kernels.h"
#include "decode_step/packed_matrix.h"
#include "decode_step/step_state.h"
#include "dense_matmul/dense_matmul_kernels.h"
#include "gelu/gelu_kernels.h"
#include "rms_norm/rms_norm_kernels.h"
#include "selective_scan/selective_scan_kernels.h"
#include "sparse_attention/sparse_attention_rows.h"

namespace ghost {
namespace {

constexpr int64_t kChunkRows = 512;  // that a block goes through together: their floats stay in a cache
// Rows below which decoding a matrix costs more than it saves.
constexpr int64_t kFewRows = 32;
constexpr int64_t kFewReducedRows = 16;
constexpr int64_t kSliceChannels = 64;    // of a scan
constexpr int64_t kSerialWork = 1 << 15;  // state updates that are done sooner than threads wake

// Rows of a sequence among those at work.
struct Segment {
  int64_t sequence;
  Span rows;
};

// The rows of a batch, (batch, seqlen), layer by layer. A task takes a block of rows from norm to product to
// product; what runs along a sequence, scan and attention, is shared out by channels and heads.
class Prefill {
 public:
  Prefill(const DecodeWeights& weights, const DecodePiece& piece, const Arrays& in)
      : w_(weights),
        piece_(piece),
        in_(in),
        batch_(in[0].shape(0)),
        seqlen_(in[0].shape(1)),
        total_(batch_ * seqlen_),
        dim_(w_.embedding.shape(1)),
        stream_(make({in[0].shape(0), in[0].shape(1), w_.embedding.shape(1)})) {
    widest_ = std::max<int64_t>({dim_, w_.head.rows, w_.project.rows, w_.cheap_in.rows});
    for (const auto& layer : w_.layers)
      widest_ = std::max<int64_t>({widest_, layer.up.rows, layer.A.shape(0), layer.dt_proj.columns});
  }

  Arrays run() {
    at_ = piece_.first_state(w_);
    if (piece_.front) {
      front();
    } else {
      std::copy_n(floats(in_[0]), total_ * dim_, h());
      if (w_.config.routing) depth_ = floats(in_[1]);
    }
    for (int l = piece_.first; l < piece_.last; ++l) layer(l);
    if (depth_array_) out_.push_back(*depth_array_);
    out_.push_back(piece_.at_end(w_) ? logits() : stream_);
    return std::move(out_);
  }

 private:
  float* h() { return stream_.data<float>(); }

  State next_state() {
    const mx::array& old = in_[at_++];
    out_.push_back(make(old.shape(), old.dtype()));
    const State state{old, out_.back()};
    for (int64_t b = 0; b < batch_; ++b) state.keep(b);
    return state;
  }

  // -- blocks of rows ---------------------------------------------------------------------------------------

  // Working memory of a task.
  struct Block {
    RowBlock rows;
    float* x;     // normalized
    float* y;     // what is added
    float* wide;  // what is wider
    int64_t pitch_dim;
    int64_t pitch_wide;
  };

  // Floats between rows of working memory: not a power of two, for such rows fall on the same cache sets.
  int64_t pitch(int64_t n) const { return few_ ? n : round_up(n, 16) + 16; }

  // fn(r0, r1, block) for blocks of the rows [begin, end).
  template <class Fn>
  void for_blocks(int64_t begin, int64_t end, Fn&& fn) const {
    const int64_t blocks = ceil_div(end - begin, kBlockRows);
    const int64_t each = ceil_div(end - begin, std::max<int64_t>(blocks, 1));
    parallel_for(blocks, [&](int64_t i) {
      const int64_t narrow = kBlockRows * (dim_ + 32), wide = kBlockRows * (widest_ + 32);
      const int64_t rows = RowBlock::floats(widest_);
      float* memory = scratch(Scratch::block, static_cast<size_t>(rows + 2 * narrow + wide));
      Block block{RowBlock(memory, widest_),  memory + rows, memory + rows + narrow,
                  memory + rows + 2 * narrow, pitch(dim_),   pitch(widest_)};
      const int64_t r0 = begin + i * each;
      if (r0 < end) fn(r0, std::min(r0 + each, end), block);
    });
  }

  void normalize(const float* x, const mx::array& weight, float* y, int64_t rows, int64_t ldy) const {
    for (int64_t r = 0; r < rows; ++r)
      rms_norm_kernels().get<float>().forward(x + r * dim_, floats(weight), w_.config.eps, y + r * ldy, 1,
                                              dim_);
  }

  // h += y, and x the norm of it.
  void add_norm(float* h, const mx::array& weight, Block& block, int64_t rows) const {
    const auto add = rms_norm_kernels().get<float>().add_forward;
    for (int64_t r = 0; r < rows; ++r) {
      float* row = h + r * dim_;
      add(row, block.y + r * block.pitch_dim, floats(weight), w_.config.eps, row,
          block.x + r * block.pitch_dim, 1, dim_);
    }
  }

  // Decodes matrices, if that pays, and does other(i) for i < others.
  template <class Fn>
  void pack(const std::vector<PackedMatrix*>& matrices, int64_t others, Fn&& other) {
    const std::vector<PackTask> tasks = few_ ? std::vector<PackTask>{} : pack_tasks(matrices, panels_);
    const auto n = static_cast<int64_t>(tasks.size());
    parallel_for_if(!few_, n + others,
                    [&](int64_t i) { i < n ? tasks[static_cast<size_t>(i)].run() : other(i - n); });
  }

  // fn(segment) for the parts of sequences within rows [begin, end).
  template <class Fn>
  void for_segments(int64_t begin, int64_t end, Fn&& fn) const {
    auto span = std::upper_bound(spans_.begin(), spans_.end(), begin,
                                 [](int64_t row, const Span& s) { return row < s.end; });
    for (; span != spans_.end() && span->begin < end; ++span) {
      if (span->length() > 0)
        fn(Segment{span - spans_.begin(), {std::max(begin, span->begin), std::min(end, span->end)}});
    }
  }

  // -- before the layers ------------------------------------------------------------------------------------

  int token(int64_t row) const {
    return std::clamp(in_[0].data<int32_t>()[row], 0, w_.embedding.shape(0) - 1);
  }

  void front() {
    const State conv = next_state(), ssm = next_state(), last = next_state(), cheap = next_state();
    few_ = total_ < kFewRows;
    spans_ = equal_spans(batch_, seqlen_);
    PackedMatrix project(w_.project, Activation::float32), cheap_in(w_.cheap_in, Activation::float32),
        cheap_out(w_.cheap_out, Activation::float32), head(w_.head, Activation::float32);
    pack({&project, &cheap_in, &cheap_out, &head}, 0, [](int64_t) {});
    const int64_t channels = w_.project.rows;
    float* features = scratch(Scratch::decode, static_cast<size_t>(total_ * (channels + 3) + channels));
    float* factors = features + total_ * channels;
    for_blocks(0, total_, [&](int64_t r0, int64_t r1, Block& block) {
      for_segments(r0, r1, [&](const Segment& segment) { embed(segment, conv); });
      block.rows.read(h() + r0 * dim_, dim_, r1 - r0, dim_, Activation::float32);
      block.rows.multiply(project, features + r0 * channels, channels);
    });
    float* decay = factors + 3 * total_;
    for (int64_t c = 0; c < channels; ++c) decay[c] = std::exp(-floats(w_.rate)[c]);
    parallel_for_if(total_ * channels > kSerialWork, batch_, [&](int64_t b) {
      decode_kernels().boundaries(features + b * seqlen_ * channels, seqlen_, channels, decay,
                                  floats(w_.rate), floats(w_.boundary_weight), floats(w_.boundary_bias)[0],
                                  ssm.after(b), last.after(b), factors + b * seqlen_);
    });
    float* scores = factors + total_;
    float* surprise = scores + total_;
    const bool routing = w_.config.routing;
    for (int64_t b = 0; routing && b < batch_; ++b)
      surprise[b * seqlen_] = surprise_of(cheap.before(b), b * seqlen_);
    for_blocks(0, total_, [&](int64_t r0, int64_t r1, Block& block) {
      for (int64_t r = r0; r < r1; ++r) {
        for (int64_t d = 0; d < dim_; ++d) h()[r * dim_ + d] *= factors[r];
      }
      // The cheap predictor speaks of the byte after each row: of the last ones for the state, of the others
      // for routing.
      if (routing) {
        predict(r0, r1, block, cheap_in, cheap_out, head);
        score(r0, r1, block, scores);
        const int64_t classes = w_.head.rows;
        for (int64_t r = r0; r < r1; ++r) {
          const float* row = block.wide + (r - r0) * block.pitch_wide;
          if ((r + 1) % seqlen_ == 0) {
            std::copy_n(row, classes, cheap.after(r / seqlen_));
          } else {
            surprise[r + 1] = surprise_of(row, r + 1);
          }
        }
      } else {
        for_segments(r0, r1, [&](const Segment& segment) {
          const int64_t end = segment.rows.end;
          if (end % seqlen_) return;
          predict(end - 1, end, block, cheap_in, cheap_out, head);
          std::copy_n(block.wide, w_.head.rows, cheap.after(segment.sequence));
        });
      }
    });
    if (!routing) return;
    depth_array_ = make({static_cast<int>(batch_), static_cast<int>(seqlen_)});
    float* depth = depth_array_->data<float>();
    const auto shallow = static_cast<float>(w_.config.min_depth);
    for (int64_t r = 0; r < total_; ++r) {
      depth[r] = 1.0f + static_cast<float>(w_.config.max_depth - 1) * sigmoid(scores[r]);
      if (surprise[r] < w_.config.threshold) depth[r] = std::min(depth[r], shallow);
    }
    depth_ = depth;
  }

  // Rows of h from the embeddings of their bytes and of those before.
  void embed(const Segment& segment, const State& conv) {
    const int width = w_.conv_weight.shape(0);
    const int64_t first = segment.sequence * seqlen_, count = segment.rows.length();
    float* rows = scratch(Scratch::scan, static_cast<size_t>((count + width - 1) * dim_));
    for (int64_t j = 0; j < count + width - 1; ++j) {
      const int64_t t = segment.rows.begin - first - (width - 1) + j;
      const float* from = t < 0 ? conv.before(segment.sequence) + (t + width - 1) * dim_
                                : floats(w_.embedding) + token(first + t) * dim_;
      std::copy_n(from, dim_, rows + j * dim_);
    }
    const float* own = rows + (width - 1) * dim_;
    float* to = h() + segment.rows.begin * dim_;
    const CausalConv1dRows<float> filter{
        own, rows, floats(w_.conv_weight), floats(w_.conv_bias), count, dim_, width, true};
    causal_conv1d_kernels().get<float>().forward(filter, to, 0, count);
    for (int64_t i = 0; i < count * dim_; ++i) to[i] += own[i];
    if (segment.rows.end == first + seqlen_)
      std::copy_n(rows + count * dim_, (width - 1) * dim_, conv.after(segment.sequence));
  }

  // Logits of the cheap predictor for rows of h, into what is wide; x is their norm.
  void predict(int64_t r0, int64_t r1, Block& block, const PackedMatrix& cheap_in,
               const PackedMatrix& cheap_out, const PackedMatrix& head) {
    const int64_t n = r1 - r0, rank = w_.cheap_in.rows, ld = block.pitch_dim;
    normalize(h() + r0 * dim_, w_.router_norm, block.x, n, ld);
    block.rows.read(block.x, ld, n, dim_, Activation::float32);
    block.rows.multiply(cheap_in, block.wide, rank);
    block.rows.read(block.wide, rank, n, rank, Activation::float32);
    block.rows.multiply(cheap_out, block.y, ld);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t d = 0; d < dim_; ++d) block.y[r * ld + d] += block.x[r * ld + d];
    }
    block.rows.read(block.y, ld, n, dim_, Activation::float32);
    block.rows.multiply(head, block.wide, block.pitch_wide);
  }

  // How deep the router would send rows, of whose norm x is.
  void score(int64_t r0, int64_t r1, const Block& block, float* scores) const {
    for (int64_t r = r0; r < r1; ++r) {
      dense_dot_kernels().get<float>().dot(block.x + (r - r0) * block.pitch_dim, 1, floats(w_.context), dim_,
                                           0, 1, scores + r, 1);
      scores[r] += floats(w_.bias)[0] + floats(w_.importance)[token(r)];
    }
  }

  float surprise_of(const float* logits, int64_t row) const {
    float largest, total;
    cross_entropy_kernels().get<float>().sum_exp(logits, w_.head.rows, &largest, &total);
    return 1.0f - std::exp(logits[std::min(token(row), w_.head.rows - 1)] - largest) / total;
  }

  mx::array logits() {
    mx::array result = make({static_cast<int>(batch_), static_cast<int>(seqlen_), w_.head.rows});
    float* y = result.data<float>();
    few_ = total_ < kFewRows;
    PackedMatrix head(w_.head, Activation::float32);
    pack({&head}, 0, [](int64_t) {});
    for_blocks(0, total_, [&](int64_t r0, int64_t r1, Block& block) {
      normalize(h() + r0 * dim_, w_.norm, block.x, r1 - r0, block.pitch_dim);
      block.rows.read(block.x, block.pitch_dim, r1 - r0, dim_, Activation::float32);
      block.rows.multiply(head, y + r0 * w_.head.rows, w_.head.rows);
    });
    return result;
  }

  // -- layers -----------------------------------------------------------------------------------------------

  // The rows that go through layer l; spans_ are where their sequences begin and end.
  std::vector<int64_t> routed(int l) {
    std::vector<int64_t> rows;
    const bool all = !w_.config.routing || l < w_.config.min_depth;
    spans_.clear();
    for (int64_t b = 0; b < batch_; ++b) {
      const auto begin = static_cast<int64_t>(rows.size());
      for (int64_t r = b * seqlen_; r < (b + 1) * seqlen_; ++r) {
        if (all || depth_[r] > static_cast<float>(l)) rows.push_back(r);
      }
      spans_.push_back({begin, static_cast<int64_t>(rows.size())});
    }
    return rows;
  }

  void layer(int l) {
    const DecodeLayer& layer = w_.layers[static_cast<size_t>(l)];
    const std::vector<int64_t> rows = routed(l);
    const auto n = static_cast<int64_t>(rows.size());
    few_ = n < (piece_.activation == Activation::float32 ? kFewRows : kFewReducedRows);
    const State conv = next_state(), ssm = next_state();
    std::optional<AttentionCache> cache;
    if (layer.attention) {
      cache.emplace(in_, at_, w_.config.stride);
      at_ += 7;
    }
    if (n == 0) {
      if (cache) cache->keep(out_);
      return;
    }
    std::optional<mx::array> gathered;
    float* h = stream_.data<float>();
    if (n < total_) {
      gathered = make({static_cast<int>(n), static_cast<int>(dim_)});
      h = gathered->data<float>();
      for (int64_t i = 0; i < n; ++i)
        std::copy_n(this->h() + rows[static_cast<size_t>(i)] * dim_, dim_, h + i * dim_);
    }
    LayerPanels panels(layer, piece_.activation);
    Heads heads;
    if (cache) heads.emplace(make({4, static_cast<int>(n), static_cast<int>(dim_)}));
    mamba(layer, panels, conv, ssm, h, n, heads);
    if (cache) attention(layer, panels, *cache, h, n, *heads);
    for (int64_t i = 0; gathered && i < n; ++i)
      std::copy_n(h + i * dim_, dim_, this->h() + rows[static_cast<size_t>(i)] * dim_);
  }

  using Heads = std::optional<mx::array>;  // queries, keys, values and what is mixed of them, (4, n, dim)

  // Chunk after chunk of the rows through the scan, and through what follows it up to the next block that
  // looks along the sequences.
  void mamba(const DecodeLayer& layer, LayerPanels& panels, const State& conv, const State& ssm, float* h,
             int64_t n, Heads& heads) {
    const int64_t inner = layer.A.shape(0), dstate = layer.A.shape(1);
    const int64_t parts = layer.x_proj.rows, rank = layer.dt_proj.columns;
    const auto& scan = selective_scan_kernels().get<float>();
    std::vector<ScanSlice> slices;
    int64_t blocks = 0;
    for (int64_t c = 0; c < inner; c += kSliceChannels) {
      slices.push_back({c, std::min(kSliceChannels, inner - c), blocks});
      blocks += ceil_div(slices.back().channels, scan.width);
    }
    const int64_t chunk = std::min(n, kChunkRows);
    const int64_t packed_A = round_up(blocks * scan.width * dstate, 16);
    float* A = scratch(Scratch::decode, static_cast<size_t>(packed_A + chunk * (4 * inner + parts)));
    float* x = A + packed_A;
    float* z = x + chunk * inner;
    float* u = z + chunk * inner;
    float* delta = u + chunk * inner;
    float* projected = delta + chunk * inner;
    const auto slice_count = static_cast<int64_t>(slices.size());
    pack(panels.all(), slice_count, [&](int64_t i) {
      const ScanSlice& slice = slices[static_cast<size_t>(i)];
      scan.pack(floats(layer.A), slice, static_cast<int>(dstate), A + slice.block0 * dstate * scan.width);
    });
    for (int64_t c0 = 0; c0 < n; c0 += chunk) {
      const int64_t c1 = std::min(c0 + chunk, n);
      for_blocks(c0, c1, [&](int64_t r0, int64_t r1, Block& block) {
        normalize(h + r0 * dim_, layer.mamba_norm, block.x, r1 - r0, block.pitch_dim);
        block.rows.read(block.x, block.pitch_dim, r1 - r0, dim_, piece_.activation);
        block.rows.multiply(panels.in_x, x + (r0 - c0) * inner, inner);
        block.rows.multiply(panels.in_z, z + (r0 - c0) * inner, inner);
      });
      std::vector<Segment> segments;
      for_segments(c0, c1, [&](const Segment& segment) { segments.push_back(segment); });
      const auto filter = [&](const Segment& segment) {
        return CausalConv1dRows<float>{x + (segment.rows.begin - c0) * inner,
                                       conv.after(segment.sequence),
                                       floats(layer.conv_weight),
                                       floats(layer.conv_bias),
                                       segment.rows.length(),
                                       inner,
                                       layer.conv_weight.shape(0),
                                       true};
      };
      for_blocks(c0, c1, [&](int64_t r0, int64_t r1, Block& block) {
        for (const Segment& segment : segments) {
          const int64_t from = std::max(segment.rows.begin, r0), to = std::min(segment.rows.end, r1);
          if (from >= to) continue;
          causal_conv1d_kernels().get<float>().forward(filter(segment), u + (segment.rows.begin - c0) * inner,
                                                       from - segment.rows.begin, to - segment.rows.begin);
        }
        float* own = projected + (r0 - c0) * parts;
        block.rows.read(u + (r0 - c0) * inner, inner, r1 - r0, inner, piece_.activation);
        block.rows.multiply(panels.x_proj, own, parts);
        for (int64_t r = 0; r < r1 - r0; ++r) std::copy_n(own + r * parts, rank, block.wide + r * rank);
        block.rows.read(block.wide, rank, r1 - r0, rank, piece_.activation);
        block.rows.multiply(panels.dt_proj, delta + (r0 - c0) * inner, inner);
      });
      for (const Segment& segment : segments) remember_filter(filter(segment), conv.after(segment.sequence));
      const auto count = static_cast<int64_t>(segments.size()) * slice_count;
      parallel_for_if((c1 - c0) * inner * dstate > kSerialWork, count, [&](int64_t i) {
        const Segment& segment = segments[static_cast<size_t>(i / slice_count)];
        const ScanSlice& slice = slices[static_cast<size_t>(i % slice_count)];
        const int64_t row = segment.rows.begin - c0;
        float* state = ssm.after(segment.sequence);
        const float* B = projected + row * parts + rank;
        const ScanSequence<float> rows{u + row * inner,
                                       delta + row * inner,
                                       z + row * inner,
                                       A,
                                       B,
                                       B + dstate,
                                       floats(layer.D),
                                       floats(layer.dt_bias),
                                       state,
                                       segment.rows.length(),
                                       inner,
                                       parts,
                                       static_cast<int>(dstate),
                                       true};
        const auto floats_wanted = static_cast<size_t>(scan.forward_scratch(slice, static_cast<int>(dstate)));
        scan.forward(rows, slice, u + row * inner, state, nullptr, scratch(Scratch::scan, floats_wanted));
      });
      for_blocks(c0, c1, [&](int64_t r0, int64_t r1, Block& block) {
        block.rows.read(u + (r0 - c0) * inner, inner, r1 - r0, inner, piece_.activation);
        block.rows.multiply(panels.out_proj, block.y, block.pitch_dim);
        if (!heads) return feed_forward(layer, panels, h, r0, r1, block);
        add_norm(h + r0 * dim_, layer.attention->norm, block, r1 - r0);
        block.rows.read(block.x, block.pitch_dim, r1 - r0, dim_, piece_.activation);
        for (size_t i = 0; i < 3; ++i) {
          float* to = heads->data<float>() + (static_cast<int64_t>(i) * n + r0) * dim_;
          block.rows.multiply(panels.attention[i], to, dim_);
        }
      });
    }
  }

  // The filter's state after its rows: the last ones of those in it and those given.
  static void remember_filter(const CausalConv1dRows<float>& rows, float* state) {
    const int64_t keep = rows.width - 1;
    for (int64_t k = 0; k < keep; ++k) {
      const int64_t j = rows.seqlen + k;
      std::copy_n(j < keep ? rows.state + j * rows.dim : rows.x + (j - keep) * rows.dim, rows.dim,
                  state + k * rows.dim);
    }
  }

  // h += y, which is what the block before it adds, and then what this one adds.
  void feed_forward(const DecodeLayer& layer, const LayerPanels& panels, float* h, int64_t r0, int64_t r1,
                    Block& block) const {
    const int64_t n = r1 - r0, wide = layer.up.rows, ld = pitch(wide);
    add_norm(h + r0 * dim_, layer.ffn_norm, block, n);
    block.rows.read(block.x, block.pitch_dim, n, dim_, piece_.activation);
    block.rows.multiply(panels.up, block.wide, ld);
    const auto gelu = gelu_kernels().get<float>().forward;
    for (int64_t r = 0; r < n; ++r) gelu(block.wide + r * ld, block.wide + r * ld, wide);
    block.rows.read(block.wide, ld, n, wide, piece_.activation);
    block.rows.multiply(panels.down, block.y, block.pitch_dim);
    for (int64_t r = 0; r < n; ++r) {
      for (int64_t d = 0; d < dim_; ++d) h[(r0 + r) * dim_ + d] += block.y[r * block.pitch_dim + d];
    }
  }

  void attention(const DecodeLayer& layer, const LayerPanels& panels, const AttentionCache& old, float* h,
                 int64_t n, mx::array& heads) {
    const SparseAttentionOptions options{static_cast<int>(dim_ / w_.config.head_dim), w_.config.stride};
    float* q = heads.data<float>();
    const float* k = q + n * dim_;
    const float* v = k + n * dim_;
    float* y = q + 3 * n * dim_;
    const mx::array window_k = settled_window(old.window_k, old.recent_k);
    const mx::array window_v = settled_window(old.window_v, old.recent_v);
    const int far = old.strided_k.shape(1);
    float* logsumexp = scratch(Scratch::decode, static_cast<size_t>(n * options.num_heads));
    attend(options,
           {q, k, v, floats(window_k), floats(window_v), floats(old.strided_k), floats(old.strided_v),
            old.count.data<int32_t>(), far, dim_},
           spans_, y, logsumexp);
    for_blocks(0, n, [&](int64_t r0, int64_t r1, Block& block) {
      block.rows.read(y + r0 * dim_, dim_, r1 - r0, dim_, piece_.activation);
      block.rows.multiply(panels.attention[3], block.y, block.pitch_dim);
      feed_forward(layer, panels, h, r0, r1, block);
    });
    const Arrays after = cache_after(old, {window_k, window_v}, {k, v}, spans_);
    out_.insert(out_.end(), after.begin(), after.end());
  }

  const DecodeWeights& w_;
  const DecodePiece& piece_;
  const Arrays& in_;
  size_t at_ = 0;  // the next input to read
  Arrays out_;
  int64_t batch_, seqlen_, total_, dim_;
  int64_t widest_;           // row of working memory
  mx::array stream_;         // h (batch, seqlen, dim)
  std::vector<Span> spans_;  // of the rows at work
  bool few_ = false;         // too few of them to decode matrices for
  std::optional<mx::array> panels_;
  std::optional<mx::array> depth_array_;
  const float* depth_ = nullptr;
};

}  // namespace

Arrays prefill(const DecodeWeights& weights, DecodePiece piece, const Arrays& inputs) {
  return Prefill(weights, piece, inputs).run();
}

}  // namespace ghost
