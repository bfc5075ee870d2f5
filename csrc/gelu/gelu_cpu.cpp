#include "common/elementwise.h"
#include "gelu/gelu.h"
#include "gelu/gelu_kernels.h"

namespace ghost {

void Gelu::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  elementwise::forward(stream(), inputs, outputs, gelu_kernels);
}

void GeluGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  elementwise::backward(stream(), inputs, outputs, gelu_kernels);
}

}  // namespace ghost
