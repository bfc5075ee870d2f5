#pragma once

#include "common/bindings.h"

namespace ghost {
void bind_adamw(nb::module_& m);
void bind_causal_conv1d(nb::module_& m);
void bind_codebook_matmul(nb::module_& m);
void bind_cross_entropy(nb::module_& m);
void bind_decode_step(nb::module_& m);
void bind_dense_matmul(nb::module_& m);
void bind_embedding(nb::module_& m);
void bind_fact_memory(nb::module_& m);
void bind_fact_recurrence(nb::module_& m);
void bind_gelu(nb::module_& m);
void bind_rms_norm(nb::module_& m);
void bind_selective_scan(nb::module_& m);
void bind_silu(nb::module_& m);
void bind_skip_gather(nb::module_& m);
void bind_sparse_attention(nb::module_& m);
void bind_tanh(nb::module_& m);

inline void bind_operators(nb::module_& m) {
  bind_adamw(m);
  bind_causal_conv1d(m);
  bind_codebook_matmul(m);
  bind_cross_entropy(m);
  bind_decode_step(m);
  bind_dense_matmul(m);
  bind_embedding(m);
  bind_fact_memory(m);
  bind_fact_recurrence(m);
  bind_gelu(m);
  bind_rms_norm(m);
  bind_selective_scan(m);
  bind_silu(m);
  bind_skip_gather(m);
  bind_sparse_attention(m);
  bind_tanh(m);
}

}  // namespace ghost
