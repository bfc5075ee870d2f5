#pragma once

#include <cstdint>

namespace ghost {

// A (rows, columns) weight stored as two-bit codes, 16 to a word with the first in the low bits, and float32
// codebooks: element (n, k) is codebook(n, k / group_size)[code(n, k)].
struct CodedMatrix {
  const uint32_t* codes;
  const float* codebook;
  int64_t rows;
  int64_t columns;     // a multiple of 16
  int64_t row_stride;  // floats between the codebooks of neighbouring rows: 0 for one codebook for all
  int64_t group_size;  // columns that share a codebook: 32, 64, 128, or all of them

  __attribute__((always_inline)) int64_t words() const { return columns / 16; }
  __attribute__((always_inline)) int64_t groups() const { return columns > 0 ? columns / group_size : 1; }
};

}  // namespace ghost
