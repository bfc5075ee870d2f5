// Threadgroup memory: one arena, empty at the start of every threadgroup.
#pragma once

#include <cstddef>
#include <cstdint>

#include "abi.h"
#include "machine.h"

namespace msl {

class ThreadgroupMemory {
 public:
  void begin(MslReport& report) { report_ = &report; }
  void begin_group();
  void* claim(ThreadgroupVariable& variable, size_t bytes, size_t alignment);

  // Offset of an address in the arena, or -1 when it is not in it.
  ptrdiff_t offset(const void* address) const {
    const ptrdiff_t at = static_cast<const char*>(address) - arena_;
    return at >= 0 && at < static_cast<ptrdiff_t>(kArenaBytes) ? at : -1;
  }
  // What is known of a byte (`traced`): belongs to no variable, was claimed, was written.
  enum State : uint8_t { outside, claimed, written };
  State* states() { return states_; }

  // Four times the machine's limit: a kernel over it is reported and still runs.
  static constexpr size_t kArenaBytes = 4 * kThreadgroupLimit;

 private:
  alignas(4096) char arena_[kArenaBytes];
  State states_[kArenaBytes];
  size_t end_ = 0;   // of the arena in use
  size_t held_ = 0;  // bytes of all variables
  MslReport* report_ = nullptr;
};

extern ThreadgroupMemory threadgroup_memory;

}  // namespace msl
