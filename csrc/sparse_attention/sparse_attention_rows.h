#pragma once

#include "common/sequences.h"
#include "sparse_attention/sparse_attention.h"

namespace ghost {

// The operands of the operator in memory: q, k and v have rows of `dim`, those of all sequences one after the
// other; windows are (batch, stride, dim), far rows (batch, far, dim), counts (batch,).
struct AttentionOperands {
  const float* q;
  const float* k;
  const float* v;
  const float* window_k;
  const float* window_v;
  const float* far_k;
  const float* far_v;
  const int32_t* count;
  int64_t far;
  int64_t dim;
};

// y like q, and the logsumexp (rows, heads) of all queries of the sequences; on several threads.
void attend(const SparseAttentionOptions& options, const AttentionOperands& operands,
            const std::vector<Span>& spans, float* y, float* logsumexp);

}  // namespace ghost
