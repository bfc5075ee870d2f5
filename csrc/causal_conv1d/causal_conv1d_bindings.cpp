#include "causal_conv1d/causal_conv1d.h"
#include "common/bindings.h"

namespace ghost {

void bind_causal_conv1d(nb::module_& m) {
  m.def("causal_conv1d", &causal_conv1d, "x"_a, "weight"_a, "bias"_a = nb::none(), nb::kw_only(),
        "activation"_a = nb::none(), "initial_state"_a = nb::none(), "cu_seqlens"_a = nb::none(),
        "stream"_a = nb::none());
}

}  // namespace ghost
