#include "adamw/adamw.h"
#include "common/bindings.h"

namespace ghost {

void bind_adamw(nb::module_& m) {
  m.def(
      "adamw_update",
      [](const Arrays& parameters, const Arrays& gradients, const Arrays& moments, const Arrays& squares,
         const mx::array& rate, const mx::array& step, const mx::array& scale, float beta1, float beta2,
         float eps, float weight_decay, mx::StreamOrDevice s) {
        return adamw_update(parameters, gradients, moments, squares, rate, step, scale,
                            {beta1, beta2, eps, weight_decay}, s);
      },
      "parameters"_a, "gradients"_a, "m"_a, "v"_a, "rate"_a, "step"_a, "scale"_a, nb::kw_only(), "beta1"_a,
      "beta2"_a, "eps"_a, "weight_decay"_a, "stream"_a = nb::none());
  m.def("global_norm", &global_norm, "arrays"_a, nb::kw_only(), "stream"_a = nb::none());
}

}  // namespace ghost
