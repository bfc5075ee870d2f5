#include "common/bindings.h"
#include "sparse_attention/sparse_attention.h"

namespace ghost {

void bind_sparse_attention(nb::module_& m) {
  m.def(
      "sparse_attention",
      [](const mx::array& q, const mx::array& k, const mx::array& v, const mx::array& window_k,
         const mx::array& window_v, const mx::array& far_k, const mx::array& far_v, const mx::array& count,
         int num_heads, int stride, const std::optional<mx::array>& cu_seqlens, mx::StreamOrDevice s) {
        return sparse_attention(q, k, v, {window_k, window_v, far_k, far_v, count}, cu_seqlens, num_heads,
                                stride, s);
      },
      "q"_a, "k"_a, "v"_a, "window_k"_a, "window_v"_a, "far_k"_a, "far_v"_a, "count"_a, nb::kw_only(),
      "num_heads"_a, "stride"_a, "cu_seqlens"_a = nb::none(), "stream"_a = nb::none());
}

}  // namespace ghost
