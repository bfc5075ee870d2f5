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
  // The tokenizer's leaky averages s = decay s + rate tanh(feature) over rows of features (rows, channels),
  // and factors[t] = 1 + sigmoid(bias + sum |s - s before| weight). state holds s, and last the s before.
  void (*boundaries)(const float* features, int64_t rows, int64_t channels, const float* decay,
                     const float* rate, const float* weight, float bias, float* state, float* last,
                     float* factors);
};
GHOST_DECLARE_KERNELS(DecodeKernels, decode_table, decode_kernels)

}  // namespace ghost
