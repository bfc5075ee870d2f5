#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "machine.h"

// Both keep exactly the registers that a function must preserve, so that to the compiler a switch is a call.
#if defined(__x86_64__)
asm(R"(
.text
.globl msl_switch_stack
.hidden msl_switch_stack
.type msl_switch_stack,@function
msl_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size msl_switch_stack,.-msl_switch_stack
)");
#elif defined(__aarch64__)
asm(R"(
.text
.globl msl_switch_stack
.hidden msl_switch_stack
.type msl_switch_stack,%function
msl_switch_stack:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size msl_switch_stack,.-msl_switch_stack
)");
#else
#  error "fibers are written for x86-64 and aarch64"
#endif

namespace msl {
namespace {

constexpr size_t kStackBytes = 64 << 10;
// Not a multiple of the page size: the hot frames of neighbouring fibers fall into different sets of the L1
// cache.
constexpr size_t kStackStride = kStackBytes + 448;
constexpr size_t kAllStacks = kStackStride * kMaxThreads;

// A stack whose first switch returns into `entry`.
void* fresh_stack(char* end, void (*entry)()) {
  const auto top = reinterpret_cast<uintptr_t>(end) & ~uintptr_t{15};
#if defined(__x86_64__)
  auto* words = reinterpret_cast<void**>(top);
  *--words = nullptr;  // keeps the alignment that a call leaves
  *--words = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--words = nullptr;
  return words;
#else
  char* frame = reinterpret_cast<char*>(top) - 160;
  std::memset(frame, 0, 160);
  *reinterpret_cast<void (**)()>(frame + 88) = entry;  // x30, the return address
  return frame;
#endif
}

}  // namespace

Fiber* FiberPool::take(void (*entry)()) {
  if (!fibers_) reset();
  Fiber* fiber = free_[--num_free_];
  fiber->stack_pointer = fresh_stack(fiber->stack_end, entry);
  return fiber;
}

void FiberPool::give_back(Fiber* fiber) { free_[num_free_++] = fiber; }

void FiberPool::reset() {
  if (!fibers_) {
    void* memory =
        mmap(nullptr, kAllStacks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      std::perror("metal_cpu: no address space for stacks");
      std::abort();
    }
    stacks_ = static_cast<char*>(memory);
    // Fewer pages to look up: a switch goes to another stack every few instructions.
    madvise(memory, kAllStacks, MADV_HUGEPAGE);
    fibers_ = new Fiber[kMaxThreads];
    free_ = new Fiber*[kMaxThreads];
    for (size_t i = 0; i < kMaxThreads; ++i) fibers_[i].stack_end = stacks_ + (i + 1) * kStackStride;
  }
  num_free_ = 0;
  for (size_t i = kMaxThreads; i-- > 0;) free_[num_free_++] = &fibers_[i];
}

bool FiberPool::holds(const void* address) const {
  const auto* byte = static_cast<const char*>(address);
  return byte >= stacks_ && byte < stacks_ + kAllStacks;
}

}  // namespace msl
