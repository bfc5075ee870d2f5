#include "skip_gather/routing_plan_host.h"
#include "skip_gather/skip_gather.h"

namespace ghost {

void RoutingPlan::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [capacity = capacity_](const Arrays& in, Arrays& out) {
    const HostPlan plan(in[0], in.size() > 1 ? &in[1] : nullptr);
    plan.write(capacity, out[0].data<int32_t>(), out[1].data<int32_t>(), out[2].data<int32_t>());
  });
}

}  // namespace ghost
