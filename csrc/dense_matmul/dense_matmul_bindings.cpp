#include "common/bindings.h"
#include "dense_matmul/dense_matmul.h"

namespace ghost {

void bind_dense_matmul(nb::module_& m) {
  m.def("dense_matmul", &dense_matmul, "x"_a, "weight"_a, nb::kw_only(), "activation"_a = "float32",
        "stream"_a = nb::none());
}

}  // namespace ghost
