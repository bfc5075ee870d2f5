#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ghost {

// One query's scores: far columns [0, far_count) of `far`, padded to far_padded; local columns [begin, end)
// of `local`, of which [from, to) were computed. Column end - 1 is the query's own row, earlier ones lose
// slope a column.
struct AttentionRow {
  int64_t far_count;
  int64_t far_padded;
  int64_t begin;
  int64_t end;
  int64_t from;
  int64_t to;
  float scale;
  float slope;
};

struct SparseAttentionKernels {
  // Scores to weights, zero in all other columns. The logsumexp of the scores is largest + log(total).
  void (*softmax)(float* far, float* local, const AttentionRow& row, float* largest, float* total);
  // Scores s to weights p, and their gradients dp to p * (dp - dot) * scale; zero in all other columns.
  void (*gradient)(float* far, float* local, float* dfar, float* dlocal, const AttentionRow& row,
                   float logsumexp, float dot);
  float (*dot)(const float* a, const float* b, int64_t n);
};
GHOST_DECLARE_KERNELS(SparseAttentionKernels, sparse_attention_table, sparse_attention_kernels)

}  // namespace ghost
