// The memory checks of the `traced` flavour. Its code calls a hook before every load and store.
#pragma once

#include <cstdint>
#include <vector>

#include "abi.h"
#include "machine.h"
#include "shadow.h"
#include "traffic.h"

namespace msl {

class Trace {
 public:
  // Copies the buffers to memory of ours with a red zone around each, so that an access outside of a buffer
  // is noticed and harmless, and binds the copies.
  void begin(const Library& library, const MslBuffer* buffers, int num_buffers, MslReport& report);
  void end_group();
  // Copies the results back.
  void end();
  bool is_on() const { return on_; }

  void access(const char* address, size_t bytes, bool writes, bool is_vector, bool is_atomic,
              const void* code);
  const Binding* bindings() const { return bindings_; }

 private:
  struct Operand {
    char* home;  // where the host has it
    char* copy;
    uint64_t bytes;
    uint64_t base;  // of its cells in the shadow
    int buffer;
    std::vector<uint8_t> lines;  // 64-byte lines touched: 1 loaded, 2 stored
  };

  void access_device(const char* address, size_t bytes, bool writes, bool is_vector, bool is_atomic,
                     const void* code);
  void access_threadgroup(ptrdiff_t offset, size_t bytes, bool writes, bool is_vector, bool is_atomic,
                          const void* code);
  void check_race(Shadow& shadow, size_t offset, size_t bytes, bool writes, int buffer, const void* code);
  void touch_lines(Operand& operand, uint64_t offset, size_t bytes, bool writes);
  void reserve(size_t bytes);
  void find_library(const Library& library);

  bool on_ = false;
  // The library in memory: tables in the constant address space are part of it.
  const char* library_begin_ = nullptr;
  const char* library_end_ = nullptr;
  MslReport* report_ = nullptr;
  char* memory_ = nullptr;
  size_t mapped_ = 0;
  std::vector<Operand> operands_;
  std::vector<int> operand_of_page_;
  Binding bindings_[MSL_MAX_BUFFERS];
  Shadow device_shadow_;
  Shadow threadgroup_shadow_;
  Traffic traffic_;
};

extern Trace trace;

}  // namespace msl
