#include "causal_conv1d/causal_conv1d.h"
#include "codebook_matmul/codebook_matmul.h"
#include "selective_scan/selective_scan.h"
#include "skip_gather/skip_gather.h"

namespace ghost {
[[gnu::weak]] void CausalConv1d::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void CausalConv1dGrad::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void CodebookMatmul::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void CodebookGrad::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void CodebookMatmulLatent::eval_gpu(const Arrays& in, Arrays& out) {
  Primitive::eval_gpu(in, out);
}
[[gnu::weak]] void CodebookMatmulLatentGrad::eval_gpu(const Arrays& in, Arrays& out) {
  Primitive::eval_gpu(in, out);
}
[[gnu::weak]] void CodebookAssign::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void SelectiveScan::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void SelectiveScanGrad::eval_gpu(const Arrays& in, Arrays& out) {
  Primitive::eval_gpu(in, out);
}
[[gnu::weak]] void SelectiveScanStates::eval_gpu(const Arrays& in, Arrays& out) {
  Primitive::eval_gpu(in, out);
}
[[gnu::weak]] void RoutingPlan::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void SkipGather::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void SkipGatherGrad::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void SkipScatter::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
[[gnu::weak]] void SkipScatterGrad::eval_gpu(const Arrays& in, Arrays& out) { Primitive::eval_gpu(in, out); }
}  // namespace ghost
