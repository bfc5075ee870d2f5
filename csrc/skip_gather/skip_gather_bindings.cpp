#include "common/bindings.h"
#include "skip_gather/skip_gather.h"

namespace ghost {

void bind_skip_gather(nb::module_& m) {
  m.def("routing_plan", &routing_plan, "mask"_a, nb::kw_only(), "capacity"_a = nb::none(),
        "cu_seqlens"_a = nb::none(), "stream"_a = nb::none());
  m.def("skip_gather", &skip_gather, "x"_a, "indices"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("skip_scatter", &skip_scatter, "x"_a, "y"_a, "indices"_a, "gate"_a = nb::none(), nb::kw_only(),
        "stream"_a = nb::none());
}

}  // namespace ghost
