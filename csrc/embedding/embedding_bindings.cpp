#include "common/bindings.h"
#include "embedding/embedding.h"

namespace ghost {

void bind_embedding(nb::module_& m) {
  m.def("embedding", &embedding, "weight"_a, "tokens"_a, nb::kw_only(), "stream"_a = nb::none());
}

}  // namespace ghost
