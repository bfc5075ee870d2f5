#include "common/bindings.h"
#include "fact_memory/fact_memory.h"

namespace ghost {

void bind_fact_memory(nb::module_& m) {
  m.def("fact_match", &fact_match, "folded"_a, "keys"_a, "key_length"_a, "key_hash"_a, "byte_hash"_a,
        "word"_a, "history"_a, "hash_base"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("fact_scores", &fact_scores, "bag"_a, "keys"_a, "key_length"_a, "hit_row"_a, "hit_log"_a,
        "log_scale"_a, "null_score"_a, "top_k"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("fact_positions", &fact_positions, "began"_a, "candidates"_a, "log_weights"_a, "folded"_a, "scale"_a,
        "values"_a, "value_context"_a, "value_length"_a, nb::kw_only(), "stream"_a = nb::none());
}

}  // namespace ghost
