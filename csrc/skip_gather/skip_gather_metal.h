#pragma once

#include "common/metal_kernel.h"
#include "skip_gather/params.h"

namespace ghost::skip_gather_metal {

using Layout = SkipGatherLayout;

constexpr const char* kLibrary = "skip_gather";
// Kernels whose unit is a SIMD-group.
constexpr Extent kThreads{kSimdWidth, Layout::groups, 1};
inline Extent groups_for(int simdgroups) { return {ceil_div(simdgroups, Layout::groups), 1, 1}; }

}  // namespace ghost::skip_gather_metal
