#include "common/bindings.h"
#include "gelu/gelu.h"

namespace ghost {

void bind_gelu(nb::module_& m) { m.def("gelu", &gelu, "x"_a, nb::kw_only(), "stream"_a = nb::none()); }

}  // namespace ghost
