#pragma once

#include <metal_stdlib>

#include "codebook_matmul/decode_byte.h"

using namespace metal;

// What a pipeline is compiled for. The host sets all of them for every kernel of the products.
constant bool by_group [[function_constant(0)]];          // a codebook serves a group of columns, not a row
constant bool codebook_vectors [[function_constant(1)]];  // the codebook begins at a multiple of 16 bytes
constant bool codes_vectors [[function_constant(2)]];     // every row of codes does
constant bool x_vectors [[function_constant(3)]];         // every row of x does
constant bool pair_table [[function_constant(4)]];        // gemv: decode pairs by a table across the lanes

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
