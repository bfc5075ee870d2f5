#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ghost {

// Factors of one step: p = decay * p - rate * m / (root * sqrt(v) + eps), with g scaled first.
struct AdamWFactors {
  float decay;
  float scale;
  float rate;
  float root;
  float beta1;
  float beta2;
  float eps;
};

// Over n elements; the outputs may be the inputs they belong to.
struct AdamWKernels {
  void (*update)(const AdamWFactors& f, const float* p, const float* g, const float* m, const float* v,
                 float* new_p, float* new_m, float* new_v, int64_t n);
  float (*sum_squares)(const float* x, int64_t n);
};
GHOST_DECLARE_KERNELS(AdamWKernels, adamw_table, adamw_kernels)

}  // namespace ghost
