#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace ghost {

// What this machine can do at most, measured: the two bounds that operators are compared with. Both use
// num_threads() threads and report the best of several runs, `seconds` in all.

// Multiplications and additions in a second: "float32", "bfloat16" (products of pairs into float32) or "int8"
// (of quadruples into int32). Nothing when the active instruction set has no such instruction.
std::optional<double> measure_peak(const std::string& kind, double seconds);

// Bytes read in a second from a buffer of that size, read again and again: of the cache it fits into, or of
// memory.
double measure_bandwidth(int64_t bytes, double seconds);

}  // namespace ghost
