// What a compiled kernel sees of the machine that runs it. Included by the shim, before Metal's keywords are
// macros.
//
// There is one machine in a process, in a shared object that all compiled libraries link to. It runs one
// launch at a time (a mutex in launch.cpp), so its state is plain globals: any thread of the host may be the
// one that launches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "abi.h"

// What the emulator does inside a kernel is neither the kernel's memory traffic nor its work. Functions that
// hand values to the machine are inlined for speed, and calls exempt from instrumentation where there is any.
#define MSL_UNTRACED __attribute__((no_sanitize("kernel-address", "coverage")))
#if defined(MSL_FAST)
#  define MSL_GLUE inline __attribute__((always_inline))
#else
#  define MSL_GLUE inline __attribute__((noinline)) MSL_UNTRACED
#endif

// Libraries are compiled with hidden symbols; those of the machine are shared.
#pragma GCC visibility push(default)

namespace msl {

constexpr uint32_t kSimdWidth = 32;
constexpr uint32_t kMaxThreads = 1024;
constexpr size_t kThreadgroupLimit = 32768;

// A line of Metal source; shim functions take it as a default argument, so that it is the caller's.
struct Site {
  const char* file;
  int line;
};

struct Index3 {
  uint32_t x, y, z;
};

// What the lanes of a SIMD-group hand to each other. Values lie side by side, at `lane * sizeof(value)`.
struct Exchange {
  static constexpr size_t kSlot = 64;
  alignas(64) char in[kSimdWidth * kSlot];
  alignas(64) char out[kSimdWidth * kSlot];
  uint32_t active;  // lanes that took part, one bit each
};

// Computes `out` from `in` and `active`, once for the whole SIMD-group.
using Combine = void (*)(Exchange&);

enum class Collective : uint8_t { none, reduction, scan, shuffle, ballot, matrix, copy, barrier };

struct Fiber;

struct SimdGroup {
  // Two, because a fast lane may deposit for the next meeting while others still read this one's results.
  Exchange exchange[2];
  uint32_t meetings;  // completed so far
  uint32_t live;      // lanes that have not returned; those below are subsets of it
  uint32_t fresh;     // not started
  uint32_t ready;     // stopped, can go on
  uint32_t arrived;   // wait in the current meeting
  Collective kind;    // of the current meeting
  Combine combine;
  Site site;
  // How many barriers that order memory the group has passed: threadgroup memory and device memory.
  uint32_t threadgroup_epoch;
  uint32_t device_epoch;
  Fiber* fibers[kSimdWidth];

  MSL_GLUE Exchange& open() { return exchange[meetings & 1]; }
};

// One GPU thread.
struct Thread {
  uint32_t index;  // in the threadgroup
  uint32_t lane;
  uint32_t simdgroup;
  SimdGroup* simd;
  Index3 in_group;
};

struct Grid {
  Index3 threads;
  Index3 group_threads;
  Index3 groups;
};

struct Binding {
  char* data;
  uint64_t bytes;
};

extern Thread* thread_now;
extern Index3 group_now;
extern Grid grid_now;
extern const Binding* bindings_now;

// The lane waits until all live lanes of its SIMD-group have arrived; the last one runs `combine`.
void meet(Collective kind, Combine combine, Site site);
// `flags` are those of metal::mem_flags: 1 orders device memory, 2 threadgroup memory.
void threadgroup_barrier(unsigned flags, Site site);
void simdgroup_barrier(unsigned flags, Site site);

// A threadgroup variable of a kernel: memory is claimed by the first thread of each threadgroup that gets
// there.
struct ThreadgroupVariable {
  uint64_t owner = 0;  // serial number of the threadgroup that `data` was claimed for
  char* data = nullptr;
};
extern uint64_t threadgroup_serial;
void* claim_slow(ThreadgroupVariable& variable, size_t bytes, size_t alignment);
MSL_GLUE void* claim(ThreadgroupVariable& variable, size_t bytes, size_t alignment) {
  return variable.owner == threadgroup_serial ? variable.data : claim_slow(variable, bytes, alignment);
}

// A function constant of a library, in the list of all.
struct FunctionConstant {
  int index;
  void* value;
  size_t bytes;
  bool* defined;
  FunctionConstant* next;
};

// Where an argument of a kernel comes from, as its attribute says.
enum class Source : uint8_t {
  buffer,
  thread_position_in_grid,
  threadgroup_position_in_grid,
  thread_position_in_threadgroup,
  thread_index_in_threadgroup,
  thread_index_in_simdgroup,
  simdgroup_index_in_threadgroup,
  threads_per_threadgroup,
  threads_per_grid,
  threadgroups_per_grid,
  simdgroups_per_threadgroup,
  threads_per_simdgroup,
  quadgroup_index_in_threadgroup,
  thread_index_in_quadgroup,
};

struct BufferArgument {
  int index;
  size_t bytes;   // of a reference's type; 0 for pointers
  bool writable;  // what it points to is not const
};

// A kernel of a library, in the list of all. `run` is called once per GPU thread.
struct Kernel {
  const char* name;
  void (*run)();
  const BufferArgument* buffers;
  int num_buffers;
  Kernel* next;
};

// One compiled .metal file.
struct Library {
  bool is_traced;
  Kernel* kernels;
  FunctionConstant* constants;
  // Blocks of code and the operations in each (`counted`): counters [first_block, first_block + num_blocks).
  uint32_t first_block;
  uint32_t num_blocks;
  const uint16_t (*block_operations)[MSL_OPERATION_CLASSES];
};

int launch(const Library& library, const MslLaunch& launch, MslReport* report);
int has_kernel(const Library& library, const char* name);
const char* kernel_names(const Library& library);
// Numbers the guards of a `counted` library; returns the first number.
uint32_t number_blocks(uint32_t* begin, uint32_t* end);

// An atomic access: counted as traffic (`traced`), never part of a race.
void atomic_access(void* address, size_t bytes, bool loads, bool stores);

}  // namespace msl

#pragma GCC visibility pop
