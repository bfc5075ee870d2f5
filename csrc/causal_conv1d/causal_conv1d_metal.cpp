#include "causal_conv1d/causal_conv1d.h"
#include "causal_conv1d/params.h"
#include "common/metal_alignment.h"
#include "common/metal_kernel.h"

namespace ghost {
namespace {

using Layout = CausalConv1dLayout;

constexpr const char* kLibrary = "causal_conv1d";
// Lanes that keep a GPU's memory busy with four loads of 16 bytes each: 256 KiB on their way, which is what
// 400 GB/s and half a microsecond of latency ask for.
constexpr int kBusyLanes = 4096;

// How a call is laid out on the GPU. This is where variants are chosen.
struct Plan {
  int pack;  // channels of a lane
  int tile_rows;
  int blocks;  // of 32 packs
  int tiles;
};

// Rows of a tile, from short to long.
constexpr int kForwardTiles[] = {1, 4, 16, 64};
constexpr int kBackwardTiles[] = {8, 32, 128};

// A tile reads up to width - 1 rows of its neighbours, forward, and twice as many backward. The longest tiles
// keep that under 5 %. Where they would leave the GPU idle, time is latency, and shorter tiles, whose extra
// rows come from cache, are faster.
template <size_t kSizes>
Plan plan_of(int rows, int dim, int pack, const int (&tile_rows)[kSizes]) {
  const int packs = ceil_div(dim, pack);
  const auto lanes = [&](size_t size) { return int64_t{ceil_div(rows, tile_rows[size])} * packs; };
  size_t size = kSizes - 1;
  while (size > 0 && lanes(size) < kBusyLanes) --size;
  return {pack, tile_rows[size], ceil_div(packs, kSimdWidth), ceil_div(rows, tile_rows[size])};
}

CausalConv1dParams params_of(const Arrays& inputs, const CausalConv1dOptions& options, const Plan& plan) {
  const auto& x = inputs[0];
  CausalConv1dParams p{};
  p.total = row_count(x);
  p.dim = inputs[1].shape(0);
  p.batch = options.ragged ? inputs[4].shape(0) - 1 : x.shape(0);
  p.seqlen = options.ragged ? 0 : x.shape(1);
  p.tile_rows = plan.tile_rows;
  p.tiles = plan.tiles;
  p.ragged = options.ragged;
  p.has_state = options.has_state;
  p.silu = options.silu;
  p.vector = plan.pack > 1;
  return p;
}

// Sequences without rows, which no tile meets. Those of a ragged batch are not known here.
int rowless_sequences(const CausalConv1dParams& p) { return p.ragged || p.seqlen == 0 ? p.batch : 0; }

}  // namespace

void CausalConv1d::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const auto& x = inputs[0];
  const int dim = inputs[1].shape(0);
  const int width = inputs[1].shape(1);
  const int pack = 16 / static_cast<int>(x.itemsize());
  const bool vector = packs_fit(dim, pack, {&x, &inputs[3]});
  const Plan plan = plan_of(row_count(x), dim, vector ? pack : 1, kForwardTiles);
  const CausalConv1dParams p = params_of(inputs, options_, plan);

  MetalKernel kernel(stream(), kLibrary, "causal_conv1d_fwd_" + metal_dtype(x.dtype()), {{0, width}});
  kernel.input(x).input(inputs[1]).input(inputs[2]);
  options_.has_state ? kernel.input(inputs[3]) : kernel.absent();
  options_.ragged ? kernel.input(inputs[4]) : kernel.absent();
  kernel.output(outputs[0]).output(outputs[1]).params(p);
  kernel.run({plan.blocks, ceil_div(p.tiles + rowless_sequences(p), Layout::tiles_per_group), 1},
             {kSimdWidth, Layout::tiles_per_group, 1});
}

void CausalConv1dGrad::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const auto& x = inputs[0];
  const auto& dy = inputs[inputs.size() - 2];
  const auto& dlast = inputs[inputs.size() - 1];
  const int dim = inputs[1].shape(0);
  const int width = inputs[1].shape(1);
  const bool vector = packs_fit(dim, Layout::backward_pack, {&x, &inputs[3], &dy, &dlast});
  const Plan plan = plan_of(row_count(x), dim, vector ? Layout::backward_pack : 1, kBackwardTiles);
  const CausalConv1dParams p = params_of(inputs, options_, plan);
  auto partials = temporary(stream(), {p.tiles, width + 1, dim}, mx::float32);

  MetalKernel kernel(stream(), kLibrary, "causal_conv1d_bwd_" + metal_dtype(x.dtype()), {{0, width}});
  kernel.input(x).input(inputs[1]).input(inputs[2]);
  options_.has_state ? kernel.input(inputs[3]) : kernel.absent();
  options_.ragged ? kernel.input(inputs[4]) : kernel.absent();
  kernel.input(dy).input(dlast).output(outputs[0]).output(outputs[3]).output(partials).params(p);
  // Without a state, one SIMD-group writes the zeros that stand for its gradient.
  const int extra = options_.has_state ? rowless_sequences(p) : 1;
  kernel.run({plan.blocks, ceil_div(p.tiles + extra, Layout::tiles_per_group), 1},
             {kSimdWidth, Layout::tiles_per_group, 1});

  MetalKernel(stream(), kLibrary, "causal_conv1d_bwd_sum_float32", {{0, width}})
      .input(partials)
      .output(outputs[1])
      .output(outputs[2])
      .params(CausalConv1dSumParams{dim, p.tiles})
      .run({ceil_div(dim, kSimdWidth), 1, 1}, {kSimdWidth, Layout::sum_groups, 1});
}

}  // namespace ghost
