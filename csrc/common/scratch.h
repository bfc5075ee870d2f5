#pragma once

#include <cstddef>

namespace ghost {

// Working memory of the calling thread, 64-byte aligned, kept between calls so that big temporaries do not
// fault their pages in every time. A slot holds one buffer; asking again for a slot reuses it.
enum class Scratch {
  gemm_a,
  gemm_b,
  gemm_tile,
  gemm_transposed,
  product,
  prepared,
  scan,
  attention,
  decode,
  block,
  count
};
float* scratch(Scratch slot, size_t floats);

}  // namespace ghost
