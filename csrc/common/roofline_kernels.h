#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ghost {

// Loops that do nothing but one thing, as fast as the instruction set can. Null where it has no such
// instruction.
struct RooflineKernels {
  // Each runs `steps` times over independent sums and returns them added up, so that nothing is left out.
  float (*multiply_f32)(int64_t steps);
  float (*multiply_bf16)(int64_t steps);      // pairs of bfloat16 into float32
  float (*multiply_int8)(int64_t steps);      // quadruples of bytes into int32
  int64_t flops_f32, flops_bf16, flops_int8;  // of one step, a multiplication and an addition being two
  float (*read)(const float* data, int64_t n);
};

GHOST_DECLARE_VNNI_KERNELS(RooflineKernels, roofline_table, roofline_kernels)

}  // namespace ghost
