// Stacks of their own for GPU threads, and the switch between them.
#pragma once

#include <cstddef>

namespace msl {

struct Fiber {
  void* stack_pointer = nullptr;
  char* stack_end = nullptr;  // one past the highest address; null for the host's own stack
};

extern "C" void msl_switch_stack(void** from, void* to);

// Saves the caller in `from` and goes on where `to` stopped.
inline void switch_fiber(Fiber& from, Fiber& to) { msl_switch_stack(&from.stack_pointer, to.stack_pointer); }

// Fibers for up to kMaxThreads GPU threads at a time. Stacks are reserved once and committed by use.
class FiberPool {
 public:
  // A fiber that will start in `entry`, which must not return.
  Fiber* take(void (*entry)());
  void give_back(Fiber* fiber);
  // Takes all fibers back, whatever they were doing.
  void reset();
  // Whether an address lies on any fiber's stack: memory private to a thread.
  bool holds(const void* address) const;

 private:
  Fiber* fibers_ = nullptr;
  Fiber** free_ = nullptr;
  size_t num_free_ = 0;
  char* stacks_ = nullptr;
};

}  // namespace msl
