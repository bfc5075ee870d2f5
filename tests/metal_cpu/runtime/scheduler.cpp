#include "scheduler.h"

#include <string>

#include "faults.h"
#include "threadgroup_memory.h"

namespace msl {

Scheduler scheduler;
Thread* thread_now = nullptr;
Index3 group_now;
Grid grid_now;
const Binding* bindings_now = nullptr;

void meet(Collective kind, Combine combine, Site site) { scheduler.meet(kind, combine, site); }
void threadgroup_barrier(unsigned flags, Site site) { scheduler.meet_threadgroup(flags, site); }
void simdgroup_barrier(unsigned flags, Site site) { scheduler.order_simdgroup(flags, site); }

void Scheduler::begin(void (*kernel)(), MslReport& report) {
  kernel_ = kernel;
  report_ = &report;
}

void Scheduler::place_threads(Index3 size) {
  size_ = size;
  num_threads_ = 0;
  for (uint32_t z = 0; z < size.z; ++z) {
    for (uint32_t y = 0; y < size.y; ++y) {
      for (uint32_t x = 0; x < size.x; ++x) {
        const uint32_t i = num_threads_++;
        SimdGroup* simd = &simd_[i / kSimdWidth];
        threads_[i] = {i, i % kSimdWidth, i / kSimdWidth, simd, {x, y, z}};
      }
    }
  }
  num_simd_ = (num_threads_ + kSimdWidth - 1) / kSimdWidth;
}

int Scheduler::run_group(Index3 group, uint32_t linear, Index3 size) {
  if (size.x != size_.x || size.y != size_.y || size.z != size_.z) place_threads(size);
  group_now = group;
  linear_ = linear;
  error_ = MSL_OK;
  live_ = num_threads_;
  at_barrier_ = 0;
  threadgroup_epoch_ = 0;
  device_epoch_ = 0;
  runnable_ = num_simd_ == 32 ? ~0u : (1u << num_simd_) - 1;
  for (uint32_t s = 0; s < num_simd_; ++s) {
    const uint32_t lanes = num_threads_ - s * kSimdWidth;
    SimdGroup& simd = simd_[s];
    simd.live = lanes >= kSimdWidth ? ~0u : (1u << lanes) - 1;
    simd.fresh = simd.live;
    simd.ready = 0;
    simd.arrived = 0;
    simd.threadgroup_epoch = 0;
    simd.meetings = 0;
    simd.device_epoch = 0;
    waiting_[s] = 0;
  }
  report_->threads += num_threads_;
  ++report_->threadgroups;
  threadgroup_memory.begin_group();

  thread_now = nullptr;
  choose();
  Fiber* first = pool_.take(&Scheduler::fiber_entry);
  thread_now->simd->fibers[thread_now->lane] = first;
  switch_fiber(host_, *first);
  thread_now = nullptr;
  if (error_ != MSL_OK) pool_.reset();
  return error_;
}

void Scheduler::stop(int error) {
  error_ = error;
  Fiber abandoned;
  switch_fiber(abandoned, host_);
  __builtin_unreachable();
}

void Scheduler::recover() {
  thread_now = nullptr;
  pool_.reset();
}

Scheduler::Next Scheduler::choose() {
  if (!runnable_) return Next::none;
  // Lanes of one SIMD-group run one after another, so that its collectives complete early.
  uint32_t s = thread_now ? thread_now->simdgroup : 0;
  if (!(runnable_ >> s & 1)) {
    const uint32_t later = runnable_ & ~((2u << s) - 1);
    s = static_cast<uint32_t>(__builtin_ctz(later ? later : runnable_));
  }
  SimdGroup& simd = simd_[s];
  const Next next = simd.fresh ? Next::fresh : Next::stopped;
  uint32_t& lanes = simd.fresh ? simd.fresh : simd.ready;
  const auto lane = static_cast<uint32_t>(__builtin_ctz(lanes));
  lanes &= lanes - 1;
  if (!(simd.fresh | simd.ready)) runnable_ &= ~(1u << s);
  thread_now = &threads_[s * kSimdWidth + lane];
  return next;
}

void Scheduler::fiber_entry() {
  Scheduler& self = scheduler;
  for (;;) {
    self.kernel_();
    Fiber* mine = thread_now->simd->fibers[thread_now->lane];
    self.leave();
    const Next next = self.choose();
    if (next == Next::fresh) {
      // No switch at all between the threads of a kernel without barriers.
      thread_now->simd->fibers[thread_now->lane] = mine;
      continue;
    }
    if (next == Next::none && self.live_) self.report_deadlock();
    self.pool_.give_back(mine);
    switch_fiber(*mine, next == Next::none ? self.host_ : *thread_now->simd->fibers[thread_now->lane]);
  }
}

// The current thread stops; it goes on when another one chooses it.
void Scheduler::wait() {
  Fiber* mine = thread_now->simd->fibers[thread_now->lane];
  const Next next = choose();
  if (next == Next::none) report_deadlock();
  Fiber*& other = thread_now->simd->fibers[thread_now->lane];
  if (next == Next::fresh) other = pool_.take(&Scheduler::fiber_entry);
  switch_fiber(*mine, *other);
}

void Scheduler::leave() {
  const uint32_t lane_bit = 1u << thread_now->lane;
  SimdGroup& simd = *thread_now->simd;
  simd.live &= ~lane_bit;
  --live_;
  if (simd.arrived && simd.arrived == simd.live) finish_meeting(simd);
  if (at_barrier_ && at_barrier_ == live_) {
    fault_log.add(Fault::divergence, "a thread returns while the others wait at threadgroup_barrier",
                  barrier_site_);
    stop(MSL_DIVERGED);
  }
}

void Scheduler::meet(Collective kind, Combine combine, Site site) {
  SimdGroup& simd = *thread_now->simd;
  if (!simd.arrived) {
    simd.kind = kind;
    simd.combine = combine;
    simd.site = site;
  } else if (simd.kind != kind || simd.combine != combine || simd.site.line != site.line) {
    fault_log.add(
        Fault::divergence,
        "lanes of one SIMD-group meet at different functions, one at " + source_line(simd.site) + ", another",
        site);
    stop(MSL_DIVERGED);
  }
  simd.arrived |= 1u << thread_now->lane;
  if (simd.arrived == simd.live) {
    finish_meeting(simd);
  } else {
    wait();
  }
}

void Scheduler::finish_meeting(SimdGroup& simd) {
  Exchange& exchange = simd.open();
  exchange.active = simd.arrived;
  if (simd.combine) simd.combine(exchange);
  if (simd.kind == Collective::barrier) {
    ++report_->simd_barriers;
  } else {
    ++report_->collectives;
    if (simd.kind == Collective::matrix) ++report_->matrix_multiplies;
  }
  ++simd.meetings;
  // The current lane goes on by itself; a lane that returned is not among those that arrived.
  simd.ready |= simd.arrived & ~(1u << thread_now->lane);
  simd.arrived = 0;
  if (simd.ready) runnable_ |= 1u << (&simd - simd_);
}

void Scheduler::order_simdgroup(unsigned flags, Site site) {
  SimdGroup& simd = *thread_now->simd;
  const uint32_t meeting = simd.meetings + 1;
  meet(Collective::barrier, nullptr, site);
  // Every lane passes here with the same number before it touches memory again.
  if (flags & 2) simd.threadgroup_epoch = meeting;
  if (flags & 1) simd.device_epoch = meeting;
}

void Scheduler::meet_threadgroup(unsigned flags, Site site) {
  if (!at_barrier_) {
    barrier_site_ = site;
    barrier_flags_ = flags;
  } else if (barrier_site_.line != site.line) {
    fault_log.add(Fault::divergence,
                  "threads of one threadgroup meet at different barriers, one at " +
                      source_line(barrier_site_) + ", another",
                  site);
    stop(MSL_DIVERGED);
  }
  barrier_flags_ &= flags;
  waiting_[thread_now->simdgroup] |= 1u << thread_now->lane;
  if (++at_barrier_ < live_) return wait();
  if (live_ < num_threads_) {
    fault_log.add(Fault::divergence,
                  "threadgroup_barrier reached by " + std::to_string(live_) + " of " +
                      std::to_string(num_threads_) + " threads, the others have returned",
                  site);
    stop(MSL_DIVERGED);
  }
  finish_barrier();
}

void Scheduler::finish_barrier() {
  ++report_->barriers;
  if (barrier_flags_ & 2) ++threadgroup_epoch_;
  if (barrier_flags_ & 1) ++device_epoch_;
  at_barrier_ = 0;
  waiting_[thread_now->simdgroup] &= ~(1u << thread_now->lane);
  for (uint32_t s = 0; s < num_simd_; ++s) {
    if (!waiting_[s]) continue;
    simd_[s].ready |= waiting_[s];
    waiting_[s] = 0;
    runnable_ |= 1u << s;
  }
}

void Scheduler::report_deadlock() {
  std::string what = "no thread can go on:";
  if (at_barrier_) {
    what += " " + std::to_string(at_barrier_) + " of " + std::to_string(live_) +
            " threads wait at the threadgroup_barrier of " + source_line(barrier_site_) + ";";
  }
  for (uint32_t s = 0; s < num_simd_; ++s) {
    const SimdGroup& simd = simd_[s];
    if (!simd.arrived) continue;
    what += " " + std::to_string(__builtin_popcount(simd.arrived)) + " of " +
            std::to_string(__builtin_popcount(simd.live)) + " lanes of SIMD-group " + std::to_string(s) +
            " wait at " + source_line(simd.site) + ";";
  }
  what.back() = ' ';
  fault_log.add(Fault::divergence, what);
  stop(MSL_DIVERGED);
}

}  // namespace msl
