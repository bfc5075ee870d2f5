#include "common/bindings.h"
#include "selective_scan/selective_scan.h"

namespace ghost {

void bind_selective_scan(nb::module_& m) {
  m.def("selective_scan", &selective_scan, "u"_a, "delta"_a, "A"_a, "B"_a, "C"_a, "D"_a = nb::none(),
        "z"_a = nb::none(), nb::kw_only(), "delta_bias"_a = nb::none(), "delta_softplus"_a = false,
        "initial_state"_a = nb::none(), "cu_seqlens"_a = nb::none(), "stream"_a = nb::none());
  m.def("selective_state_update", &selective_state_update, "state"_a, "u"_a, "delta"_a, "A"_a, "B"_a, "C"_a,
        "D"_a = nb::none(), "z"_a = nb::none(), "delta_bias"_a = nb::none(), "delta_softplus"_a = false,
        nb::kw_only(), "stream"_a = nb::none());
  m.def("selective_scan_states", &selective_scan_states, "u"_a, "delta"_a, "A"_a, "B"_a, "C"_a,
        "D"_a = nb::none(), "z"_a = nb::none(), nb::kw_only(), "delta_bias"_a = nb::none(),
        "delta_softplus"_a = false, "initial_state"_a = nb::none(), "cu_seqlens"_a = nb::none(),
        "stream"_a = nb::none());
}

}  // namespace ghost
