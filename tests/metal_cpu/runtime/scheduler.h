// Runs the threads of one threadgroup, each on its fiber, until all have returned.
#pragma once

#include "abi.h"
#include "fiber.h"
#include "machine.h"

namespace msl {

class Scheduler {
 public:
  void begin(void (*kernel)(), MslReport& report);
  // Runs a threadgroup of `size` threads. Returns MSL_OK or the error that stopped it.
  int run_group(Index3 group, uint32_t linear, Index3 size);
  // Gives up the threadgroup: the fibers are abandoned and run_group returns `error`.
  [[noreturn]] void stop(int error);
  // Puts the machine in order after a crash that left run_group by a long jump.
  void recover();

  void meet(Collective kind, Combine combine, Site site);
  void meet_threadgroup(unsigned flags, Site site);
  void order_simdgroup(unsigned flags, Site site);

  bool is_private(const void* address) const { return pool_.holds(address); }
  uint32_t linear_group() const { return linear_; }
  // Barriers passed that order threadgroup memory, and device memory.
  uint32_t threadgroup_epoch() const { return threadgroup_epoch_; }
  uint32_t device_epoch() const { return device_epoch_; }
  SimdGroup* simdgroups() { return simd_; }
  uint32_t num_simdgroups() const { return num_simd_; }

 private:
  static void fiber_entry();
  void place_threads(Index3 size);
  // Makes the next thread that can run the current one.
  enum class Next { none, fresh, stopped };
  Next choose();
  void wait();
  void leave();
  void finish_meeting(SimdGroup& group);
  void finish_barrier();
  [[noreturn]] void report_deadlock();

  void (*kernel_)() = nullptr;
  MslReport* report_ = nullptr;
  FiberPool pool_;
  Fiber host_;
  int error_ = MSL_OK;
  uint32_t linear_ = 0;

  Index3 size_ = {};  // that threads_ were placed for
  Thread threads_[kMaxThreads];
  SimdGroup simd_[kMaxThreads / kSimdWidth];
  uint32_t num_threads_ = 0;
  uint32_t num_simd_ = 0;
  uint32_t live_ = 0;
  uint32_t runnable_ = 0;  // SIMD-groups with a fresh or ready lane, one bit each

  // The threadgroup barrier that threads wait at.
  uint32_t at_barrier_ = 0;
  uint32_t waiting_[kMaxThreads / kSimdWidth] = {};
  unsigned barrier_flags_ = 0;
  Site barrier_site_ = {};
  uint32_t threadgroup_epoch_ = 0;
  uint32_t device_epoch_ = 0;
};

extern Scheduler scheduler;

}  // namespace msl
