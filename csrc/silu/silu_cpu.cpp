#include "common/elementwise.h"
#include "silu/silu.h"
#include "silu/silu_kernels.h"

namespace ghost {

void Silu::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  elementwise::forward(stream(), inputs, outputs, silu_kernels);
}

void SiluGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  elementwise::backward(stream(), inputs, outputs, silu_kernels);
}

}  // namespace ghost
