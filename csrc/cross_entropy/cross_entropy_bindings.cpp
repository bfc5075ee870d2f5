#include "common/bindings.h"
#include "cross_entropy/cross_entropy.h"

namespace ghost {

void bind_cross_entropy(nb::module_& m) {
  m.def("cross_entropy", &cross_entropy, "logits"_a, "targets"_a, nb::kw_only(), "stream"_a = nb::none());
}

}  // namespace ghost
