#include "causal_conv1d/causal_conv1d.h"
#include "causal_conv1d/params.h"
#include "common/metal_alignment.h"
#include "common/metal_kernel.h"

namespace ghost {
namespace {

constexpr const char* kLibrary = "causal_conv1d";
constexpr int kLanes = 32;
constexpr int kTilesPerGroup = 4;  // SIMD-groups of a threadgroup, as in causal_conv1d.h of the kernels
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

// A tile reads `halo` rows that belong to its neighbours. Long tiles make that little; where they would leave
// the GPU idle, time is latency and shorter tiles, whose extra rows come from cache, are faster.
Plan plan_of(int rows, int dim, int pack, int longest) {
  Plan plan{pack, longest, ceil_div(dim, kLanes * pack), 0};
  while (plan.tile_rows > 1 && ceil_div(rows, plan.tile_rows) * ceil_div(dim, pack) < kBusyLanes) {
    plan.tile_rows /= 4;
  }
  plan.tiles = ceil_div(rows, plan.tile_rows);
  return plan;
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
  const Plan plan = plan_of(row_count(x), dim, vector ? pack : 1, 64);
  const CausalConv1dParams p = params_of(inputs, options_, plan);

  MetalKernel kernel(stream(), kLibrary, "causal_conv1d_fwd_" + metal_dtype(x.dtype()), {{0, width}});
  kernel.input(x).input(inputs[1]).input(inputs[2]);
  options_.has_state ? kernel.input(inputs[3]) : kernel.absent();
  options_.ragged ? kernel.input(inputs[4]) : kernel.absent();
  kernel.output(outputs[0]).output(outputs[1]).params(p);
  kernel.run({plan.blocks, ceil_div(p.tiles + rowless_sequences(p), kTilesPerGroup), 1},
             {kLanes, kTilesPerGroup, 1});
}

}  // namespace ghost
