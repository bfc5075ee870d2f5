#include "skip_gather/skip_gather.h"
#include "skip_gather/skip_gather_metal.h"

namespace ghost {

using namespace skip_gather_metal;

// Three launches, so that no threadgroup waits for another: count by block, add up, write.
void RoutingPlan::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const auto& mask = inputs[0];
  RoutingPlanParams p{};
  p.total = static_cast<int>(mask.size());
  p.batch = outputs[1].shape(0) - 1;
  p.seqlen = ragged_ ? 0 : mask.shape(-1);
  p.ragged = ragged_;
  p.capacity = capacity_;
  p.blocks = ceil_div(p.total, Layout::block_rows);
  p.vector = mask.offset() % 16 == 0;

  auto counts = temporary(stream(), {p.blocks}, mx::int32);
  auto before = temporary(stream(), {p.blocks + 1}, mx::int32);
  auto range = temporary(stream(), {sizeof(RoutedRange) / sizeof(int)}, mx::int32);
  MetalKernel(stream(), kLibrary, "routing_plan_count")
      .input(mask)
      .output(counts)
      .params(p)
      .run(groups_for(p.blocks), kThreads);

  MetalKernel scan(stream(), kLibrary, "routing_plan_scan");
  scan.input(mask);
  ragged_ ? scan.input(inputs[1]) : scan.absent();
  scan.input(counts).output(before).output(range).output(outputs[2]).params(p);
  scan.run({1, 1, 1}, {kSimdWidth, Layout::scan_groups, 1});

  MetalKernel write(stream(), kLibrary, "routing_plan_write");
  write.input(mask);
  ragged_ ? write.input(inputs[1]) : write.absent();
  write.input(before).input(range).output(outputs[0]).output(outputs[1]).params(p);
  write.run(groups_for(p.blocks + p.batch + 1 + ceil_div(capacity_, Layout::pad_entries)), kThreads);
}

}  // namespace ghost
