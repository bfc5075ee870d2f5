#include "shadow.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>

namespace msl {
namespace {

uint64_t simdgroup_of(const Moment& m) {
  return m.thread < kManyInSimd ? m.thread / 32 : m.thread - kManyInSimd;  // 32 for kManyInGroup: none
}

}  // namespace

// Whether an earlier access is over for the thread that makes this one.
bool Shadow::is_ordered(const Moment& before, const Moment& now) const {
  if (before.group == 0) return true;
  // Nothing orders threadgroups of one launch.
  if (before.group != now.group) return scope_ == Scope::threadgroup;
  if (before.thread == now.thread || before.barrier != now.barrier) return true;
  return simdgroup_of(before) == simdgroup_of(now) && before.simd != now.simd;
}

// The readers of a byte so far, with one more.
Moment Shadow::merge(const Moment& before, const Moment& now) const {
  if (before.group == 0) return now;
  Moment all = now;
  if (before.group != now.group) {
    if (scope_ == Scope::device) all.group = kManyGroups;
  } else if (before.barrier == now.barrier && before.thread != now.thread) {
    if (simdgroup_of(before) != simdgroup_of(now)) {
      all.thread = kManyInGroup;
    } else if (before.simd == now.simd) {
      all.thread = kManyInSimd + simdgroup_of(now);
    }
  }
  return all;
}

Shadow::~Shadow() { release(); }

void Shadow::release() {
  if (cells_) munmap(cells_, mapped_);
  cells_ = nullptr;
}

void Shadow::begin(size_t bytes, Scope scope) {
  release();
  scope_ = scope;
  mapped_ = (bytes + 1) * sizeof(Cell);
  // Zero pages, which cost memory only where the kernel goes.
  void* memory =
      mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("metal_cpu: no address space for shadow memory");
    std::abort();
  }
  cells_ = static_cast<Cell*>(memory);
}

const Moment* Shadow::access(size_t offset, size_t bytes, Moment now, bool writes) {
  static Moment conflict;
  const Moment* found = nullptr;
  for (size_t i = offset; i < offset + bytes; ++i) {
    Cell& cell = cells_[i];
    const Moment* before = nullptr;
    if (!is_ordered(cell.write, now)) before = &cell.write;
    if (writes && !is_ordered(cell.read, now)) before = &cell.read;
    if (before && !found) {
      conflict = *before;
      found = &conflict;
    }
    if (writes) {
      cell.write = now;
    } else {
      cell.read = merge(cell.read, now);
    }
  }
  return found;
}

}  // namespace msl
