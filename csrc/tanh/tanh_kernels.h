#pragma once

#include "common/elementwise_kernels.h"

namespace ghost {

GHOST_DECLARE_KERNELS(ElementwiseTable, tanh_table, tanh_kernels)

}  // namespace ghost
