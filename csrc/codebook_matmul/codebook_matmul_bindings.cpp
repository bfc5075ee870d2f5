#include "codebook_matmul/codebook_matmul.h"
#include "common/bindings.h"

namespace ghost {

void bind_codebook_matmul(nb::module_& m) {
  m.def("codebook_matmul", &codebook_matmul, "x"_a, "codes"_a, "codebook"_a, nb::kw_only(),
        "transpose"_a = true, "activation"_a = "float32", "stream"_a = nb::none());
  m.def("codebook_matmul_latent", &codebook_matmul_latent, "x"_a, "weight"_a, "codebook"_a, nb::kw_only(),
        "activation"_a = "float32", "half_levels"_a = false, "stream"_a = nb::none());
  m.def("codebook_assign", &codebook_assign, "w"_a, "codebook"_a, nb::kw_only(), "stream"_a = nb::none());
  m.def("codebook_dequantize", &codebook_dequantize, "codes"_a, "codebook"_a, "dtype"_a, nb::kw_only(),
        "stream"_a = nb::none());
  m.def("bucket_sum", &bucket_sum, "dw"_a, "codes"_a, "groups"_a, nb::kw_only(), "stream"_a = nb::none());
}

}  // namespace ghost
