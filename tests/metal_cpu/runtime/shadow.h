// Who touched each byte last: finds accesses of two threads that nothing orders.
#pragma once

#include <cstddef>
#include <cstdint>

namespace msl {

// A thread at a moment: the barriers that it has passed say what is ordered before it.
struct Moment {
  uint64_t group : 24;    // of the grid, from 1; 0: nobody yet
  uint64_t barrier : 16;  // threadgroup barriers passed that order this memory
  uint64_t simd : 13;     // the same of its SIMD-group
  uint64_t thread : 11;   // in the threadgroup, or one of the codes below
};

constexpr uint64_t kManyGroups = (1u << 24) - 1;  // group: threads of several threadgroups
constexpr uint64_t kManyInSimd = 1024;            // thread: several of SIMD-group `thread - kManyInSimd`
constexpr uint64_t kManyInGroup = 1024 + 32;      // thread: of several SIMD-groups

class Shadow {
 public:
  // Threadgroups share device memory; each has threadgroup memory of its own.
  enum class Scope { device, threadgroup };

  // For so many bytes, nobody having touched any.
  void begin(size_t bytes, Scope scope);
  ~Shadow();

  // Records an access. Returns the earlier one that races with it, or null.
  const Moment* access(size_t offset, size_t bytes, Moment now, bool writes);

 private:
  struct Cell {
    Moment write;
    Moment read;
  };
  void release();
  bool is_ordered(const Moment& before, const Moment& now) const;
  Moment merge(const Moment& before, const Moment& now) const;

  Scope scope_ = Scope::device;
  Cell* cells_ = nullptr;
  size_t mapped_ = 0;
};

}  // namespace msl
