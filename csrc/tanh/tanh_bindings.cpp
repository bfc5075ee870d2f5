#include "common/bindings.h"
#include "tanh/tanh.h"

namespace ghost {

void bind_tanh(nb::module_& m) { m.def("tanh", &tanh, "x"_a, nb::kw_only(), "stream"_a = nb::none()); }

}  // namespace ghost
