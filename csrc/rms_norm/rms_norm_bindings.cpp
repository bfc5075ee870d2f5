#include "common/bindings.h"
#include "rms_norm/rms_norm.h"

namespace ghost {

void bind_rms_norm(nb::module_& m) {
  m.def("rms_norm", &rms_norm, "x"_a, "weight"_a, "eps"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("add_rms_norm", &add_rms_norm, "x"_a, "residual"_a, "weight"_a, "eps"_a, nb::kw_only(),
        "stream"_a = nb::none());
}

}  // namespace ghost
