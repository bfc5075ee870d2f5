#include "trace.h"

#include <link.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "faults.h"
#include "scheduler.h"
#include "threadgroup_memory.h"

namespace msl {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kRedZone = 16 * kPage;
constexpr uint64_t kLine = 64;

size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

std::string bytes_text(size_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); }

std::string who(const Moment& m) {
  const std::string group =
      m.group == kManyGroups ? "several threadgroups" : "threadgroup #" + std::to_string(m.group - 1);
  if (m.thread < kManyInSimd) return "thread " + std::to_string(m.thread) + " of " + group;
  if (m.thread < kManyInGroup) {
    return "threads of SIMD-group " + std::to_string(m.thread - kManyInSimd) + " of " + group;
  }
  return "several SIMD-groups of " + group;
}

}  // namespace

Trace trace;

void Trace::find_library(const Library& library) {
  struct Search {
    const char* inside;
    const char* begin;
    const char* end;
  } search{reinterpret_cast<const char*>(&library), nullptr, nullptr};
  dl_iterate_phdr(
      [](dl_phdr_info* info, size_t, void* argument) {
        auto* wanted = static_cast<Search*>(argument);
        auto* begin = reinterpret_cast<const char*>(UINTPTR_MAX);
        const char* end = nullptr;
        for (int i = 0; i < info->dlpi_phnum; ++i) {
          const auto& header = info->dlpi_phdr[i];
          if (header.p_type != PT_LOAD) continue;
          const auto* segment = reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr);
          begin = std::min(begin, segment);
          end = std::max(end, segment + header.p_memsz);
        }
        if (wanted->inside < begin || wanted->inside >= end) return 0;
        wanted->begin = begin;
        wanted->end = end;
        return 1;
      },
      &search);
  library_begin_ = search.begin;
  library_end_ = search.end;
}

void Trace::reserve(size_t bytes) {
  if (memory_) munmap(memory_, mapped_);
  mapped_ = bytes;
  void* memory =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    std::perror("metal_cpu: no address space for staged buffers");
    std::abort();
  }
  memory_ = static_cast<char*>(memory);
}

void Trace::begin(const Library& library, const MslBuffer* buffers, int num_buffers, MslReport& report) {
  find_library(library);
  on_ = true;
  report_ = &report;
  traffic_.begin(report);
  threadgroup_shadow_.begin(ThreadgroupMemory::kArenaBytes, Shadow::Scope::threadgroup);
  operands_.clear();
  std::memset(bindings_, 0, sizeof(bindings_));

  for (int i = 0; i < num_buffers; ++i) {
    if (buffers[i].data)
      operands_.push_back({static_cast<char*>(buffers[i].data), nullptr, buffers[i].bytes, 0, i, {}});
  }
  // Operands that share memory keep sharing it: one copy serves all that overlap.
  std::stable_sort(operands_.begin(), operands_.end(),
                   [](const Operand& a, const Operand& b) { return a.home < b.home; });
  std::vector<Operand> merged;
  for (const Operand& operand : operands_) {
    if (!merged.empty() && operand.home < merged.back().home + merged.back().bytes) {
      Operand& last = merged.back();
      last.bytes =
          std::max<uint64_t>(last.bytes, static_cast<uint64_t>(operand.home + operand.bytes - last.home));
    } else {
      merged.push_back(operand);
    }
  }
  operands_ = std::move(merged);

  size_t total = kRedZone;
  for (Operand& operand : operands_) total += round_up(operand.bytes + kLine, kPage) + kRedZone;
  reserve(total);
  operand_of_page_.assign(total / kPage + 1, 0);
  size_t at = kRedZone;
  uint64_t cells = 0;
  for (size_t k = 0; k < operands_.size(); ++k) {
    Operand& operand = operands_[k];
    // A GPU allocation starts on a line of its own; a view into one keeps its place within 16 bytes.
    operand.copy = memory_ + at + reinterpret_cast<uintptr_t>(operand.home) % 16;
    operand.base = cells;
    cells += operand.bytes;
    operand.lines.assign(operand.bytes / kLine + 2, 0);
    const size_t end = at + round_up(operand.bytes + kLine, kPage);
    // NaN for what a kernel reads outside.
    std::memset(memory_ + at - kPage, 0xff, end - at + 2 * kPage);
    std::memcpy(operand.copy, operand.home, operand.bytes);
    const size_t first = (at - kRedZone / 2) / kPage;
    std::fill(operand_of_page_.begin() + static_cast<ptrdiff_t>(first),
              operand_of_page_.begin() + static_cast<ptrdiff_t>((end + kRedZone / 2) / kPage),
              static_cast<int>(k));
    at = end + kRedZone;
  }
  device_shadow_.begin(cells, Shadow::Scope::device);

  for (int i = 0; i < num_buffers; ++i) {
    char* home = static_cast<char*>(buffers[i].data);
    for (const Operand& operand : operands_) {
      if (home && home >= operand.home && home < operand.home + std::max<uint64_t>(operand.bytes, 1)) {
        bindings_[i] = {operand.copy + (home - operand.home), buffers[i].bytes};
      }
    }
    report.buffers[i].bytes = buffers[i].bytes;
  }
}

void Trace::end_group() { traffic_.end_group(); }

void Trace::end() {
  on_ = false;
  for (Operand& operand : operands_) {
    const bool stored =
        std::any_of(operand.lines.begin(), operand.lines.end(), [](uint8_t l) { return l & 2; });
    if (stored) std::memcpy(operand.home, operand.copy, operand.bytes);
    MslTraffic& traffic = report_->buffers[operand.buffer];
    for (const uint8_t line : operand.lines) {
      traffic.footprint_loaded += line & 1 ? kLine : 0;
      traffic.footprint_stored += line & 2 ? kLine : 0;
    }
  }
}

void Trace::access(const char* address, size_t bytes, bool writes, bool is_vector, bool is_atomic,
                   const void* code) {
  if (!on_ || !thread_now || bytes == 0 || scheduler.is_private(address)) return;
  if (address >= memory_ && address < memory_ + mapped_) {
    access_device(address, bytes, writes, is_vector, is_atomic, code);
    return;
  }
  const ptrdiff_t offset = threadgroup_memory.offset(address);
  if (offset >= 0) {
    access_threadgroup(offset, bytes, writes, is_vector, is_atomic, code);
    return;
  }
  if (address >= library_begin_ && address < library_end_) return;
  fault_log.add(
      Fault::out_of_bounds,
      std::string(writes ? "write" : "read") + " of " + bytes_text(bytes) + " in no memory of the kernel",
      code);
}

void Trace::access_device(const char* address, size_t bytes, bool writes, bool is_vector, bool is_atomic,
                          const void* code) {
  const char* verb = writes ? "write" : "read";
  if (operands_.empty()) return;
  Operand& operand =
      operands_[static_cast<size_t>(operand_of_page_[static_cast<size_t>(address - memory_) / kPage])];
  const ptrdiff_t offset = address - operand.copy;
  if (offset < 0 || offset + static_cast<ptrdiff_t>(bytes) > static_cast<ptrdiff_t>(operand.bytes)) {
    fault_log.add(Fault::out_of_bounds,
                  std::string(verb) + " of " + bytes_text(bytes) + " at byte " + std::to_string(offset) +
                      " of buffer " + std::to_string(operand.buffer) + ", which has " +
                      bytes_text(operand.bytes),
                  code);
    return;
  }
  if (is_vector && reinterpret_cast<uintptr_t>(address) % bytes != 0) {
    fault_log.add(Fault::misaligned,
                  std::string(verb) + " of " + bytes_text(bytes) + " at once at byte " +
                      std::to_string(offset) + " of buffer " + std::to_string(operand.buffer),
                  code);
  }
  MslTraffic& traffic = report_->buffers[operand.buffer];
  (writes ? traffic.lane_stored : traffic.lane_loaded) += bytes;
  touch_lines(operand, static_cast<uint64_t>(offset), bytes, writes);
  traffic_.access(code, operand.buffer, static_cast<uint64_t>(address - memory_),
                  static_cast<uint32_t>(bytes), writes);
  if (is_atomic) return;
  check_race(device_shadow_, operand.base + static_cast<uint64_t>(offset), bytes, writes, operand.buffer,
             code);
}

void Trace::touch_lines(Operand& operand, uint64_t offset, size_t bytes, bool writes) {
  // Lines of the copy, whose start need not be at the start of a line.
  const uint64_t shift = reinterpret_cast<uintptr_t>(operand.copy) % kLine;
  for (uint64_t line = (shift + offset) / kLine; line <= (shift + offset + bytes - 1) / kLine; ++line) {
    operand.lines[line] |= writes ? 2 : 1;
  }
}

void Trace::access_threadgroup(ptrdiff_t offset, size_t bytes, bool writes, bool is_vector, bool is_atomic,
                               const void* code) {
  const char* verb = writes ? "write" : "read";
  ThreadgroupMemory::State* states = threadgroup_memory.states() + offset;
  for (size_t i = 0; i < bytes; ++i) {
    if (states[i] == ThreadgroupMemory::outside) {
      fault_log.add(Fault::out_of_bounds,
                    std::string(verb) + " of " + bytes_text(bytes) + " outside of any threadgroup variable",
                    code);
      return;
    }
    if (writes) {
      states[i] = ThreadgroupMemory::written;
    } else if (states[i] == ThreadgroupMemory::claimed) {
      fault_log.add(Fault::uninitialised, "read of threadgroup memory that nobody wrote", code);
      states[i] = ThreadgroupMemory::written;
    }
  }
  if (is_vector && static_cast<size_t>(offset) % bytes != 0) {
    fault_log.add(Fault::misaligned,
                  std::string(verb) + " of " + bytes_text(bytes) + " of threadgroup memory at once", code);
  }
  (writes ? report_->threadgroup_stored : report_->threadgroup_loaded) += bytes;
  traffic_.access(code, Traffic::kThreadgroup, static_cast<uint64_t>(offset), static_cast<uint32_t>(bytes),
                  writes);
  if (is_atomic) return;
  check_race(threadgroup_shadow_, static_cast<size_t>(offset), bytes, writes, Traffic::kThreadgroup, code);
}

void Trace::check_race(Shadow& shadow, size_t offset, size_t bytes, bool writes, int buffer,
                       const void* code) {
  const bool in_threadgroup = buffer == Traffic::kThreadgroup;
  const SimdGroup& simd = *thread_now->simd;
  Moment now{};
  now.group = scheduler.linear_group() % (kManyGroups - 1) + 1;  // never one of the codes
  now.barrier = (in_threadgroup ? scheduler.threadgroup_epoch() : scheduler.device_epoch()) & 0xffff;
  now.simd = (in_threadgroup ? simd.threadgroup_epoch : simd.device_epoch) & 0x1fff;
  now.thread = thread_now->index;
  const Moment* before = shadow.access(offset, bytes, now, writes);
  if (!before) return;
  fault_log.add(Fault::race,
                std::string(writes ? "write" : "read") + " of " +
                    (in_threadgroup ? "threadgroup memory" : "buffer " + std::to_string(buffer)) +
                    " with nothing that orders it after the access by " + who(*before),
                code);
}

void atomic_access(void* address, size_t bytes, bool loads, bool stores) {
  const void* code = __builtin_return_address(0);
  if (loads) trace.access(static_cast<const char*>(address), bytes, false, true, true, code);
  if (stores) trace.access(static_cast<const char*>(address), bytes, true, true, true, code);
}

}  // namespace msl

// Hooks of clang's -fsanitize=kernel-address, renamed by -asan-memory-access-callback-prefix. Those with a
// number stand for accesses with natural alignment.
#pragma GCC visibility push(default)
#define MSL_HOOKS(n)                                                          \
  extern "C" void __msl_load##n##_noabort(const char* p) {                    \
    msl::trace.access(p, n, false, true, false, __builtin_return_address(0)); \
  }                                                                           \
  extern "C" void __msl_store##n##_noabort(const char* p) {                   \
    msl::trace.access(p, n, true, true, false, __builtin_return_address(0));  \
  }
MSL_HOOKS(1)
MSL_HOOKS(2)
MSL_HOOKS(4)
MSL_HOOKS(8)
MSL_HOOKS(16)

extern "C" void __msl_loadN_noabort(const char* p, size_t n) {
  msl::trace.access(p, n, false, false, false, __builtin_return_address(0));
}
extern "C" void __msl_storeN_noabort(const char* p, size_t n) {
  msl::trace.access(p, n, true, false, false, __builtin_return_address(0));
}
extern "C" void* __msl_memcpy(void* to, const void* from, size_t n) {
  const void* code = __builtin_return_address(0);
  msl::trace.access(static_cast<const char*>(from), n, false, false, false, code);
  msl::trace.access(static_cast<const char*>(to), n, true, false, false, code);
  return std::memcpy(to, from, n);
}
extern "C" void* __msl_memmove(void* to, const void* from, size_t n) {
  const void* code = __builtin_return_address(0);
  msl::trace.access(static_cast<const char*>(from), n, false, false, false, code);
  msl::trace.access(static_cast<const char*>(to), n, true, false, false, code);
  return std::memmove(to, from, n);
}
extern "C" void* __msl_memset(void* to, int value, size_t n) {
  msl::trace.access(static_cast<const char*>(to), n, true, false, false, __builtin_return_address(0));
  return std::memset(to, value, n);
}
extern "C" void __asan_handle_no_return() {}
#pragma GCC visibility pop
