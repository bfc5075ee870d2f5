#include "skip_gather/skip_gather_metal.h"

#include "common/metal_alignment.h"
#include "skip_gather/skip_gather.h"

namespace ghost {

using namespace skip_gather_metal;

namespace {

constexpr int kMapThreads = 256;  // of kernels with a thread an element

// Every row of the operands is read or written in packs where all allow it.
SkipGatherParams params_of(int rows, int n, int dim, std::initializer_list<const mx::array*> operands) {
  SkipGatherParams p{};
  p.rows = rows;
  p.n = n;
  p.dim = dim;
  const int size = static_cast<int>((*operands.begin())->itemsize());
  p.vector16 = packs_fit(dim, 16 / size, operands);
  p.vector4 = packs_fit(dim, 4, operands);
  return p;
}

// For each row the last entry that names it, or -1.
mx::array inverse_of(const mx::Stream& s, const mx::array& indices, int rows) {
  auto inverse = temporary(s, {rows}, mx::int32);
  SkipGatherParams p{};
  p.rows = rows;
  p.n = indices.shape(0);
  const Extent threads{kMapThreads, 1, 1};
  MetalKernel(s, kLibrary, "skip_gather_clear")
      .output(inverse)
      .params(p)
      .run({ceil_div(rows, kMapThreads), 1, 1}, threads);
  MetalKernel(s, kLibrary, "skip_gather_invert")
      .input(indices)
      .output(inverse)
      .params(p)
      .run({rows > 0 ? ceil_div(p.n, kMapThreads) : 0, 1, 1}, threads);
  return inverse;
}

// to[i] = from[source[i]], zero where that is no row.
void gather(const mx::Stream& s, const mx::array& from, int rows, const mx::array& source, mx::array& to,
            int dim) {
  const SkipGatherParams p = params_of(rows, source.shape(0), dim, {&from});
  MetalKernel(s, kLibrary, "skip_gather_fwd_" + metal_dtype(to.dtype()))
      .input(from)
      .input(source)
      .output(to)
      .params(p)
      .run(dim > 0 ? groups_for(ceil_div(p.n, Layout::rows_in_flight)) : Extent{0, 0, 0}, kThreads);
}

// Memory for the outputs, the first in that of the first input where nobody else will read that. Returns
// whether it is, so that rows which stay as they are need no copy.
bool allocate_in_place(const Arrays& inputs, Arrays& outputs) {
  if (!inputs[0].is_donatable()) {
    allocate(outputs);
    return false;
  }
  outputs[0].copy_shared_buffer(inputs[0]);
  Arrays rest(outputs.begin() + 1, outputs.end());
  allocate(rest);
  return true;
}

}  // namespace

void SkipGather::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  gather(stream(), inputs[0], row_count(inputs[0]), inputs[1], outputs[0], outputs[0].shape(1));
}

void SkipGatherGrad::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const auto inverse = inverse_of(stream(), inputs[1], row_count(outputs[0]));
  gather(stream(), inputs[0], inputs[0].shape(0), inverse, outputs[0], inputs[0].shape(1));
}

void SkipScatter::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  const bool in_place = allocate_in_place(inputs, outputs);
  const auto& x = inputs[0];
  const auto& indices = inputs[2];
  const int rows = row_count(x);
  SkipGatherParams p = params_of(rows, indices.shape(0), x.shape(-1), {&x, &inputs[1]});
  p.copy_groups = in_place ? 0 : ceil_div(rows, Layout::rows_in_flight);
  p.gated = options_.gated;
  p.saves = options_.saves;
  const auto inverse = inverse_of(stream(), indices, rows);

  MetalKernel kernel(stream(), kLibrary, "skip_gather_scatter_" + metal_dtype(x.dtype()));
  kernel.input(x).input(inputs[1]).input(indices).input(inverse);
  options_.gated ? kernel.input(inputs[3]) : kernel.absent();
  kernel.output(outputs[0]);
  options_.saves ? kernel.output(outputs[1]) : kernel.absent_output();
  kernel.params(p).run(groups_for(p.copy_groups + p.n), kThreads);
}

void SkipScatterGrad::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  const bool in_place = allocate_in_place(inputs, outputs);
  const auto& dout = inputs[0];
  const auto& indices = inputs[1];
  const int rows = row_count(dout);
  SkipGatherParams p = params_of(rows, indices.shape(0), dout.shape(-1), {&dout});
  p.copy_groups = in_place ? 0 : ceil_div(rows, Layout::rows_in_flight);
  p.gated = gated_;
  if (gated_) p.vector4 = p.vector4 && packs_fit(p.dim, 4, {&inputs[3]});
  const auto inverse = inverse_of(stream(), indices, rows);

  MetalKernel kernel(stream(), kLibrary, "skip_gather_scatter_bwd_" + metal_dtype(dout.dtype()));
  kernel.input(dout).input(indices).input(inverse);
  gated_ ? kernel.input(inputs[2]).input(inputs[3]) : kernel.absent().absent();
  kernel.output(outputs[0]).output(outputs[1]);
  gated_ ? kernel.output(outputs[2]) : kernel.absent_output();
  kernel.params(p).run(groups_for(p.copy_groups + p.n), kThreads);
}

}  // namespace ghost
