#pragma once

#include "common/elementwise_kernels.h"

namespace ghost {

constexpr float kGeluScale = 1.5957691216057308f;  // 2 sqrt(2 / pi)
constexpr float kGeluCubic = 0.044715f;
constexpr float kGeluRange = 12.0f;  // beyond it the sigmoid is 0 or 1 to float32, and its slope 0

GHOST_DECLARE_KERNELS(ElementwiseTable, gelu_table, gelu_kernels)

}  // namespace ghost
