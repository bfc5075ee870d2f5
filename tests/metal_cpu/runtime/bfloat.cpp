// What clang calls to round to bfloat where the processor has no instruction for it: libraries of compilers
// do not all have it.

#include <bit>
#include <cstdint>

#pragma GCC visibility push(default)

extern "C" __bf16 __truncsfbf2(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const bool is_nan = (bits & 0x7fffffffu) > 0x7f800000u;
  const uint32_t to_even = bits + 0x7fffu + (bits >> 16 & 1u);
  return std::bit_cast<__bf16>(static_cast<uint16_t>(is_nan ? bits >> 16 | 0x40u : to_even >> 16));
}

#pragma GCC visibility pop
