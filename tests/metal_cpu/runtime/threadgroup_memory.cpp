#include "threadgroup_memory.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "faults.h"
#include "scheduler.h"

namespace msl {
namespace {

constexpr size_t kAlignment = 128;  // all 32 banks
constexpr size_t kRedZone = 64;     // between variables, so that running over one is noticed

}  // namespace

ThreadgroupMemory threadgroup_memory;
uint64_t threadgroup_serial = 0;

void* claim_slow(ThreadgroupVariable& variable, size_t bytes, size_t alignment) {
  return threadgroup_memory.claim(variable, bytes, alignment);
}

void ThreadgroupMemory::begin_group() {
  ++threadgroup_serial;
  std::memset(states_, outside, end_);
  end_ = 0;
  held_ = 0;
}

void* ThreadgroupMemory::claim(ThreadgroupVariable& variable, size_t bytes, size_t alignment) {
  // No better aligned than declared: a GPU's compiler promises no more, so wider accesses have to fail here.
  const size_t begin = (end_ + kAlignment - 1) / kAlignment * kAlignment + alignment % kAlignment;
  const bool was_over = held_ > kThreadgroupLimit;
  held_ += (bytes + 15) / 16 * 16;
  report_->threadgroup_bytes = std::max<uint64_t>(report_->threadgroup_bytes, held_);
  if (held_ > kThreadgroupLimit && !was_over) {
    fault_log.add(Fault::over_limit,
                  "threadgroup variables of more than " + std::to_string(kThreadgroupLimit) + " bytes");
  }
  if (begin + bytes + kRedZone > kArenaBytes) scheduler.stop(MSL_LIMIT_EXCEEDED);
  end_ = begin + bytes + kRedZone;
  variable.owner = threadgroup_serial;
  variable.data = arena_ + begin;
  // NaN, and -1 for integers: what a kernel reads before it writes spoils its result.
  std::memset(variable.data, 0xff, bytes);
  std::memset(states_ + begin, claimed, bytes);
  return variable.data;
}

}  // namespace msl
