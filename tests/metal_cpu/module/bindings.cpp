#include "common/bindings.h"

#include <nanobind/stl/array.h>

#include "common/metal_kernel.h"
#include "launches.h"
#include "operators.h"

NB_MODULE(_ext_metal_cpu, m) {
  m.doc() = "The operators of ghost_native as on a Metal device, emulated on the CPU stream.";
  ghost::bind_operators(m);
  m.def("metal_available", &ghost::metal_available);
  m.def("force_composed", &ghost::force_composed);
  m.def("set_force_composed", &ghost::set_force_composed, "on"_a);

  auto emulator = m.def_submodule("emulator", "What a real device has not got.");
  emulator.def("source", &ghost::metal_source, "library"_a);
  emulator.def("use_library", &ghost::emulated::use_library, "name"_a, "shared_object"_a);
  emulator.def("libraries", &ghost::emulated::libraries);
  emulator.def("record", &ghost::emulated::record, "on"_a);
  emulator.def("take_launches", [] {
    nb::list launches;
    for (const auto& launch : ghost::emulated::take_launches()) {
      launches.append(nb::make_tuple(launch.library, launch.kernel, launch.groups, launch.threads,
                                     nb::bytes(launch.report.data(), launch.report.size())));
    }
    return launches;
  });
}
