#include "counts.h"

#include <algorithm>
#include <vector>

namespace msl {
namespace {

// Never freed: libraries may still run when static objects are destroyed.
std::vector<uint64_t>& executions() {
  static auto* counts = new std::vector<uint64_t>;
  return *counts;
}

}  // namespace

uint32_t number_blocks(uint32_t* begin, uint32_t* end) {
  const auto first = static_cast<uint32_t>(executions().size());
  for (uint32_t* guard = begin; guard < end; ++guard) *guard = first + static_cast<uint32_t>(guard - begin);
  executions().resize(first + static_cast<size_t>(end - begin));
  return first;
}

void begin_counting(const Library& library) {
  std::fill_n(executions().begin() + library.first_block, library.num_blocks, 0);
}

void add_operations(const Library& library, MslReport& report) {
  if (!library.block_operations) return;
  for (uint32_t i = 0; i < library.num_blocks; ++i) {
    for (int k = 0; k < MSL_OPERATION_CLASSES; ++k) {
      report.operations[k] += executions()[library.first_block + i] * library.block_operations[i][k];
    }
  }
}

}  // namespace msl

// The hook of clang's -fsanitize-coverage=trace-pc-guard: one guard per block of code.
extern "C" __attribute__((visibility("default"))) void __sanitizer_cov_trace_pc_guard(const uint32_t* guard) {
  ++msl::executions()[*guard];
}
