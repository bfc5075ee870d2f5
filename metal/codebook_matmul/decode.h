#pragma once

#include <metal_stdlib>

using namespace metal;

// What a pipeline is compiled for. The host sets all of them for every kernel of the products.
constant bool by_group [[function_constant(0)]];          // a codebook serves a group of columns, not a row
constant bool codebook_vectors [[function_constant(1)]];  // the codebook begins at a multiple of 16 bytes
constant bool codes_vectors [[function_constant(2)]];     // every row of codes does
constant bool x_vectors [[function_constant(3)]];         // every row of x does
constant bool pair_table [[function_constant(4)]];        // gemv: decode pairs by a table across the lanes

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

METAL_FUNC float4 load_levels(const device float* p) {
  if (codebook_vectors) return *(const device float4*)p;
  return float4(p[0], p[1], p[2], p[3]);
}

// Words [word, word + 4) of a row of codes. Words after the last repeat it: whoever decodes them takes zero
// for their levels.
METAL_FUNC uint4 load_words(const device uint* row, int word, int words) {
  if (codes_vectors) return *(const device uint4*)(row + min(word, words - 4));
  const int last = words - 1;
  return uint4(row[min(word, last)], row[min(word + 1, last)], row[min(word + 2, last)],
               row[min(word + 3, last)]);
}
