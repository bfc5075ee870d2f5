#include "common/bindings.h"

#include "common/isa.h"
#include "common/parallel.h"
#include "common/primitive.h"

namespace ghost {
void bind_causal_conv1d(nb::module_& m);
void bind_codebook_matmul(nb::module_& m);
void bind_dense_matmul(nb::module_& m);
void bind_skip_gather(nb::module_& m);
void bind_selective_scan(nb::module_& m);
}  // namespace ghost

NB_MODULE(_ext, m) {
  m.doc() = "Native operators of ghost_native. Use the documented functions of ghost_native.ops.";
  m.attr("version") = GHOST_VERSION;
  m.attr("mlx_version") = GHOST_MLX_VERSION;
  // Read the environment now, so that a bad value fails the import with its message.
  ghost::active_isa();
  ghost::num_threads();

  m.def("isa", [] { return std::string(ghost::isa_name(ghost::active_isa())); });
  m.def("set_isa", &ghost::set_isa, "name"_a);
  m.def("supported_isas", &ghost::supported_isas);
  m.def("num_threads", &ghost::num_threads);
  m.def("set_num_threads", &ghost::set_num_threads, "n"_a);
  m.def("force_composed", &ghost::force_composed);
  m.def("set_force_composed", &ghost::set_force_composed, "on"_a);

  ghost::bind_causal_conv1d(m);
  ghost::bind_codebook_matmul(m);
  ghost::bind_dense_matmul(m);
  ghost::bind_skip_gather(m);
  ghost::bind_selective_scan(m);
}
