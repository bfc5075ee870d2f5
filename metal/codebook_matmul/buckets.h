#pragma once

#include <metal_stdlib>

#include "common/unroll.h"

using namespace metal;

// Adds four values to the sums of their codes. The codes are the low eight bits, the first in the lowest.
METAL_FUNC void add_to_buckets(uint codes, float4 values, thread float4& sums) {
  GHOST_UNROLL
  for (int i = 0; i < 4; ++i) {
    const uint code = codes & (3u << (2 * i));
    const float value = values[i];
    sums.x += code == 0u ? value : 0.0f;
    sums.y += code == (1u << (2 * i)) ? value : 0.0f;
    sums.z += code == (2u << (2 * i)) ? value : 0.0f;
    sums.w += code == (3u << (2 * i)) ? value : 0.0f;
  }
}

// Adds up the sums of the four lanes whose numbers differ in the bits HIGH and LOW, and leaves one code to
// each: 2 * (HIGH set) + (LOW set). Three shuffles instead of the eight of four whole sums.
template <ushort HIGH, ushort LOW>
METAL_FUNC float share_buckets(float4 sums, uint lane) {
  const bool high = (lane & HIGH) != 0u;
  const bool low = (lane & LOW) != 0u;
  const float2 kept = high ? sums.zw : sums.xy;
  const float2 given = high ? sums.xy : sums.zw;
  const float2 pair = kept + simd_shuffle_xor(given, HIGH);
  return (low ? pair.y : pair.x) + simd_shuffle_xor(low ? pair.x : pair.y, LOW);
}
