#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ghost {

struct DecodeKernels {
  // y[n] = sum_k x[k] codebook[code(n, k)] for codes transposed to (words, rows), 16 values of k a word.
  void (*multiply_columns)(const uint32_t* codes, const float* codebook, int64_t words, int64_t rows,
                           const float* x, float* y);
  // scores[j] = scale * query . keys[j] - slope * distance[j]; rows of keys are `pitch` apart.
  void (*scores)(const float* query, const float* keys, int64_t count, int64_t pitch, int64_t head_dim,
                 float scale, float slope, const float* distance, float* scores);
  // out[d] += sum_j weights[j] values[j, d]
  void (*mix)(const float* weights, const float* values, int64_t count, int64_t pitch, int64_t head_dim,
              float* out);
};
GHOST_DECLARE_KERNELS(DecodeKernels, decode_table, decode_kernels)

}  // namespace ghost
