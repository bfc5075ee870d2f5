#pragma once

#include "common/elementwise_kernels.h"

namespace ghost {

GHOST_DECLARE_KERNELS(ElementwiseTable, silu_table, silu_kernels)

}  // namespace ghost
