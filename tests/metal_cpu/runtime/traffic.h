// Puts the accesses of single lanes together to the memory instructions of SIMD-groups, and measures those.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "abi.h"
#include "machine.h"

namespace msl {

class Traffic {
 public:
  static constexpr int kThreadgroup = -1;  // in the place of a buffer's index

  void begin(MslReport& report);
  // One lane's access. `address` counts from the start of the arena or of the staged buffers.
  void access(const void* code, int buffer, uint64_t address, uint32_t bytes, bool writes);
  // The threadgroup is over: what lanes did alone counts as instructions with few lanes.
  void end_group();

 private:
  struct Instruction {
    uint32_t lanes = 0;  // that took part, one bit each
    uint32_t bytes = 0;
    int buffer = 0;
    bool done = false;
    uint64_t addresses[kSimdWidth];
  };
  // Executions of one line of code by one SIMD-group. The n-th execution by each lane is the same
  // instruction.
  struct Stream {
    uint32_t executions[kSimdWidth] = {};
    uint32_t first = 0;  // number of pending[0]
    std::vector<Instruction> pending;
  };
  struct Place {
    bool writes = false;
    std::vector<Stream> streams;  // per SIMD-group
  };

  Place& place_of(const void* code, bool writes);
  void measure(const Instruction& instruction, bool writes);

  MslReport* report_ = nullptr;
  std::unordered_map<uint64_t, Place> places_;
  uint64_t last_key_ = 0;
  Place* last_place_ = nullptr;
};

}  // namespace msl
