#pragma once

#include <cstdint>

#include "common/coded_matrix.h"
#include "common/isa.h"

namespace ghost {

struct CodebookKernels {
  // Adds values[k] to sums[code of k] for `words` words of codes.
  void (*bucket_sum)(const uint32_t* codes, const float* values, int64_t words, float* sums);
  // Codes of the nearest of four levels: 16 values a word.
  void (*assign)(const float* values, const float* levels, int64_t words, uint32_t* codes);
};

GHOST_DECLARE_KERNELS(CodebookKernels, codebook_table, codebook_kernels)

}  // namespace ghost
