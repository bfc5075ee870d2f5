#include "common/elementwise.h"
#include "tanh/tanh.h"
#include "tanh/tanh_kernels.h"

namespace ghost {

void Tanh::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  elementwise::forward(stream(), inputs, outputs, tanh_kernels);
}

void TanhGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  elementwise::backward(stream(), inputs, outputs, tanh_kernels);
}

}  // namespace ghost
