// Launches from end to end.
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "abi.h"
#include "counts.h"
#include "faults.h"
#include "machine.h"
#include "scheduler.h"
#include "threadgroup_memory.h"
#include "trace.h"

namespace msl {
namespace {

std::mutex launching;

// A crash inside a kernel becomes an error of its launch. The handlers are there only while one runs.
class CrashGuard {
 public:
  CrashGuard() {
    owner_ = pthread_self();
    armed_ = true;
    stack_t stack{};
    stack.ss_sp = alternate_;
    stack.ss_size = sizeof(alternate_);
    sigaltstack(&stack, &old_stack_);
    struct sigaction action{};
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    for (int i = 0; i < kSignals; ++i) sigaction(signals_[i], &action, &old_[i]);
  }
  ~CrashGuard() {
    armed_ = false;
    restore();
    sigaltstack(&old_stack_, nullptr);
  }
  static sigjmp_buf& back() { return back_; }

 private:
  static constexpr int kSignals = 4;
  static constexpr int signals_[kSignals] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};

  static void restore() {
    for (int i = 0; i < kSignals; ++i) sigaction(signals_[i], &old_[i], nullptr);
  }
  static void on_signal(int, siginfo_t*, void*) {
    if (armed_ && pthread_equal(owner_, pthread_self()) && thread_now) siglongjmp(back_, 1);
    // Not ours: the instruction runs again into whoever was here before.
    restore();
  }

  static inline char alternate_[64 << 10];
  static inline stack_t old_stack_;
  static inline struct sigaction old_[kSignals];
  static inline sigjmp_buf back_;
  static inline pthread_t owner_;
  static inline volatile bool armed_ = false;
};

bool set_constants(const Library& library, const MslLaunch& launch) {
  for (const FunctionConstant* c = library.constants; c; c = c->next) {
    *c->defined = false;
    std::memset(c->value, 0, c->bytes);
  }
  for (int i = 0; i < launch.num_constants; ++i) {
    const MslConstant& given = launch.constants[i];
    for (const FunctionConstant* c = library.constants; c; c = c->next) {
      if (c->index != given.index) continue;
      if (static_cast<size_t>(given.bytes) != c->bytes) {
        fault_log.add(Fault::binding, "function constant " + std::to_string(given.index) + " of " +
                                          std::to_string(given.bytes) + " bytes, declared with " +
                                          std::to_string(c->bytes));
        return false;
      }
      std::memcpy(c->value, given.value, c->bytes);
      *c->defined = true;
    }
  }
  return true;
}

bool check_bindings(const Kernel& kernel, const MslLaunch& launch) {
  for (int i = 0; i < kernel.num_buffers; ++i) {
    const BufferArgument& argument = kernel.buffers[i];
    const bool bound = argument.index < launch.num_buffers && launch.buffers[argument.index].data;
    const bool written = bound && argument.writable && launch.buffers[argument.index].read_only;
    if (bound && !written && launch.buffers[argument.index].bytes >= argument.bytes) continue;
    std::string what = "buffer " + std::to_string(argument.index);
    if (written) {
      what += " is read-only bytes, its argument writable";
    } else if (bound) {
      what += " has " + std::to_string(launch.buffers[argument.index].bytes) + " bytes, its type " +
              std::to_string(argument.bytes);
    } else {
      what += " is not bound";
    }
    fault_log.add(Fault::binding, what);
    return false;
  }
  return true;
}

bool place_grid(const MslLaunch& launch) {
  Index3& threads = grid_now.group_threads;
  threads = {launch.threads[0], launch.threads[1], launch.threads[2]};
  if (launch.grid[0] || launch.grid[1] || launch.grid[2]) {
    grid_now.threads = {launch.grid[0], launch.grid[1], launch.grid[2]};
  } else {
    grid_now.threads = {launch.groups[0] * threads.x, launch.groups[1] * threads.y,
                        launch.groups[2] * threads.z};
  }
  const Index3& all = grid_now.threads;
  const uint64_t in_group = uint64_t{threads.x} * threads.y * threads.z;
  if (in_group == 0 || in_group > kMaxThreads || !all.x || !all.y || !all.z) return false;
  grid_now.groups = {(all.x + threads.x - 1) / threads.x, (all.y + threads.y - 1) / threads.y,
                     (all.z + threads.z - 1) / threads.z};
  return true;
}

int run_groups() {
  const Grid& grid = grid_now;
  uint32_t linear = 0;
  for (uint32_t z = 0; z < grid.groups.z; ++z) {
    for (uint32_t y = 0; y < grid.groups.y; ++y) {
      for (uint32_t x = 0; x < grid.groups.x; ++x, ++linear) {
        const Index3 size{std::min(grid.group_threads.x, grid.threads.x - x * grid.group_threads.x),
                          std::min(grid.group_threads.y, grid.threads.y - y * grid.group_threads.y),
                          std::min(grid.group_threads.z, grid.threads.z - z * grid.group_threads.z)};
        const int error = scheduler.run_group({x, y, z}, linear, size);
        if (trace.is_on()) trace.end_group();
        if (error != MSL_OK) return error;
      }
    }
  }
  return MSL_OK;
}

int run_guarded() {
  CrashGuard guard;
  if (sigsetjmp(CrashGuard::back(), 1) == 0) return run_groups();
  fault_log.add(Fault::crash,
                "the kernel touched no memory of its own, or a vector at an address that does not "
                "suit it; run it traced to find the line");
  scheduler.recover();
  return MSL_CRASHED;
}

int run(const Library& library, const Kernel& kernel, const MslLaunch& launch, MslReport& report) {
  if (launch.num_buffers > MSL_MAX_BUFFERS || !place_grid(launch)) {
    fault_log.add(Fault::binding, "threadgroups of 1 to 1024 threads and at most 31 buffers can be launched");
    return MSL_BAD_SIZE;
  }
  if (!check_bindings(kernel, launch) || !set_constants(library, launch)) return MSL_NOT_BOUND;
  scheduler.begin(kernel.run, report);
  threadgroup_memory.begin(report);
  begin_counting(library);

  Binding bindings[MSL_MAX_BUFFERS] = {};
  if (library.is_traced) {
    trace.begin(library, launch.buffers, launch.num_buffers, report);
    bindings_now = trace.bindings();
  } else {
    for (int i = 0; i < launch.num_buffers; ++i) {
      bindings[i] = {static_cast<char*>(launch.buffers[i].data), launch.buffers[i].bytes};
    }
    bindings_now = bindings;
  }
  int error = run_guarded();
  if (trace.is_on()) trace.end();
  bindings_now = nullptr;
  add_operations(library, report);
  if (error == MSL_OK && report.over_limit) error = MSL_LIMIT_EXCEEDED;
  return error;
}

const Kernel* find_kernel(const Library& library, const char* name) {
  for (const Kernel* k = library.kernels; k; k = k->next) {
    if (std::strcmp(k->name, name) == 0) return k;
  }
  return nullptr;
}

}  // namespace

int has_kernel(const Library& library, const char* name) { return find_kernel(library, name) != nullptr; }

const char* kernel_names(const Library& library) {
  static std::map<const Library*, std::string> known;
  const std::lock_guard<std::mutex> lock(launching);
  std::string& names = known[&library];
  if (names.empty()) {
    for (const Kernel* k = library.kernels; k; k = k->next) names.insert(0, std::string(k->name) + "\n");
  }
  return names.c_str();
}

int launch(const Library& library, const MslLaunch& launch, MslReport* report) {
  const std::lock_guard<std::mutex> lock(launching);
  static MslReport unasked;
  const bool is_asked = report != nullptr;
  if (!is_asked) report = &unasked;
  std::memset(report, 0, sizeof(*report));
  report->version = MSL_ABI_VERSION;

  fault_log.begin(launch.kernel, *report);
  if (const Kernel* kernel = find_kernel(library, launch.kernel)) {
    report->error = run(library, *kernel, launch, *report);
  } else {
    fault_log.add(Fault::binding, "the library has no kernel of this name");
    report->error = MSL_NO_SUCH_KERNEL;
  }
  fault_log.finish();
  if (!is_asked && report->messages[0]) std::fprintf(stderr, "metal_cpu: %s", report->messages);
  return report->error;
}

}  // namespace msl
