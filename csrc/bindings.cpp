#include "common/bindings.h"

#include "common/isa.h"
#include "common/metal.h"
#include "common/parallel.h"
#include "common/primitive.h"
#include "common/roofline.h"
#include "operators.h"

NB_MODULE(_ext, m) {
  m.doc() = "Native operators of ghost_native. Use the documented functions of ghost_native.ops.";
  // Read the environment now, so that a bad value fails the import with its message.
  ghost::active_isa();
  ghost::num_threads();
  ghost::check_metal_switch();

  m.def("version", [] { return std::string(GHOST_VERSION); });
  m.def("mlx_version", [] { return std::string(GHOST_MLX_VERSION); });
  m.def("isa", [] { return std::string(ghost::isa_name(ghost::active_isa())); });
  m.def("set_isa", &ghost::set_isa, "name"_a);
  m.def("supported_isas", &ghost::supported_isas);
  m.def("num_threads", &ghost::num_threads);
  m.def("set_num_threads", &ghost::set_num_threads, "n"_a);
  m.def("measure_peak", &ghost::measure_peak, "kind"_a, "seconds"_a,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("measure_bandwidth", &ghost::measure_bandwidth, "bytes"_a, "seconds"_a,
        nb::call_guard<nb::gil_scoped_release>());
  m.def("metal_available", &ghost::metal_available);
  m.def("force_composed", &ghost::force_composed);
  m.def("set_force_composed", &ghost::set_force_composed, "on"_a);
  m.def("is_traced", [](const ghost::mx::array& x) { return x.is_tracer(); }, "x"_a);

  ghost::bind_operators(m);
}
