#include "common/bindings.h"

#include <nanobind/stl/array.h>

#include "common/metal_kernel.h"
#include "launches.h"

namespace ghost {
void bind_causal_conv1d(nb::module_& m);
void bind_codebook_matmul(nb::module_& m);
void bind_cross_entropy(nb::module_& m);
void bind_dense_matmul(nb::module_& m);
void bind_embedding(nb::module_& m);
void bind_gelu(nb::module_& m);
void bind_rms_norm(nb::module_& m);
void bind_selective_scan(nb::module_& m);
void bind_skip_gather(nb::module_& m);
}  // namespace ghost

NB_MODULE(_ext_metal_cpu, m) {
  m.doc() = "The operators of ghost_native as on a Metal device, emulated on the CPU stream.";
  ghost::bind_causal_conv1d(m);
  ghost::bind_codebook_matmul(m);
  ghost::bind_cross_entropy(m);
  ghost::bind_dense_matmul(m);
  ghost::bind_embedding(m);
  ghost::bind_gelu(m);
  ghost::bind_rms_norm(m);
  ghost::bind_selective_scan(m);
  ghost::bind_skip_gather(m);
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
