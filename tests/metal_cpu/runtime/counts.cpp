#include "counts.h"

#include <algorithm>
#include <cstdint>
#include <vector>

// Written by tests/metal_cpu/operations.py from the library's intermediate code; other flavours have none.
extern "C" {
extern const uint32_t msl_num_blocks __attribute__((weak));
extern const uint16_t msl_block_operations[][MSL_OPERATION_CLASSES] __attribute__((weak));
}

namespace msl {
namespace {

std::vector<uint64_t>& executions() {
  static std::vector<uint64_t> counts;
  return counts;
}

}  // namespace

void begin_counting() { std::fill(executions().begin(), executions().end(), 0); }

void add_operations(MslReport& report) {
  if (!&msl_num_blocks) return;
  const size_t blocks = std::min<size_t>(executions().size(), msl_num_blocks);
  for (size_t i = 0; i < blocks; ++i) {
    for (int k = 0; k < MSL_OPERATION_CLASSES; ++k) {
      report.operations[k] += executions()[i] * msl_block_operations[i][k];
    }
  }
}

}  // namespace msl

// Hooks of clang's -fsanitize-coverage=trace-pc-guard: one guard per block, in the order of the intermediate code.
extern "C" void __sanitizer_cov_trace_pc_guard_init(uint32_t* begin, uint32_t* end) {
  for (uint32_t* guard = begin; guard < end; ++guard) *guard = static_cast<uint32_t>(guard - begin);
  msl::executions().assign(static_cast<size_t>(end - begin), 0);
}

extern "C" void __sanitizer_cov_trace_pc_guard(const uint32_t* guard) {
  static uint64_t* counts = nullptr;
  if (!counts) counts = msl::executions().data();
  ++counts[*guard];
}
