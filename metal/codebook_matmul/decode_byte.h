#pragma once

#include <metal_stdlib>

using namespace metal;

// The level of one code: an AND by the caller and three ordered selects, where a table in registers would
// be indexed at run time. `code` is masked but still in its place in a word, `one` is the code 1 there: in
// the low byte both are immediates.
METAL_FUNC float decode(uint code, uint one, float4 levels) {
  float level = code == one ? levels.y : levels.x;
  level = code == 2u * one ? levels.z : level;
  return code == 3u * one ? levels.w : level;
}

// The level of code i of the low byte.
METAL_FUNC float decode_at(uint codes, int i, float4 levels) {
  const uint one = 1u << (2 * i);
  return decode(codes & (3u * one), one, levels);
}

// The levels of the four codes of the low byte.
METAL_FUNC float4 decode_byte(uint codes, float4 levels) {
  return float4(decode_at(codes, 0, levels), decode_at(codes, 1, levels), decode_at(codes, 2, levels),
                decode_at(codes, 3, levels));
}
