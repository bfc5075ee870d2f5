#pragma once

#include <string>

namespace ghost {

// How the CPU multiplies. float32 is exact products and float32 sums; bfloat16 rounds both factors to
// bfloat16, where that is faster; int8, of two-bit weights alone, rounds the activations of each row, and the
// levels of each codebook, to 255 steps of their largest magnitude.
enum class Activation { float32, bfloat16, int8 };

// By its name; throws for others, and for int8 unless it is allowed.
Activation parse_activation(const char* op, const std::string& name, bool int8);

}  // namespace ghost
