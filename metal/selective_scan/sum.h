#pragma once

#include "selective_scan/scan.h"

// The sum of `count` operands of `size` elements, in order. Threads take four elements each.
// Threadgroups (ceil(size / 4 / threads)).
[[kernel]] void selective_scan_sum_float32(const device float* parts [[buffer(0)]],
                                           device float* out [[buffer(1)]],
                                           constant SelectiveScanSumParams& p [[buffer(2)]],
                                           uint thread_at [[thread_position_in_grid]]) {
  const int first = 4 * int(thread_at);
  float4 sum = float4(0.0f);
  for (int i = 0; i < p.count; ++i) {
    sum += load4(parts + size_t(i) * size_t(p.size) + size_t(first), p.size - first, p.vector);
  }
  store4(out + first, sum, p.size - first, p.vector);
}
