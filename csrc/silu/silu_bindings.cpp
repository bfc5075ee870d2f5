#include "common/bindings.h"
#include "silu/silu.h"

namespace ghost {

void bind_silu(nb::module_& m) { m.def("silu", &silu, "x"_a, nb::kw_only(), "stream"_a = nb::none()); }

}  // namespace ghost
