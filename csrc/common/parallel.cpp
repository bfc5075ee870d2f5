#include "common/parallel.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <vector>
#if defined(__linux__) || defined(__APPLE__)
#  include <pthread.h>
#endif
#if defined(__linux__)
#  include <sched.h>
#endif

namespace ghost {
namespace {

// Times a thread offers its core to others before it blocks. Waking a blocked thread takes tens of
// microseconds, as long as a small operation; a yield gives way at once to anything else that wants to run.
constexpr int kYields = 512;

// Looks that a thread takes between two yields: a yield is a system call, in which it sees nothing.
constexpr int kLooks = 16;

inline void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// True once `there` is, or false after a while.
template <class There>
bool look_for(There there) {
  for (int i = 0; i < kLooks; ++i) {
    if (there()) return true;
    pause_briefly();
  }
  return false;
}

// The core this thread runs on, -1 where the system does not tell.
int this_core() {
#if defined(__linux__)
  return sched_getcpu();
#else
  return -1;
#endif
}

// Where a worker runs: off the core of the thread that hands it work, which goes on there. Linux takes the
// idle cores of a virtual machine for cores that the host has taken away, and wakes a thread on its waker's
// core instead. Until it balances the load, milliseconds later, both share that core.
class Place {
 public:
  void belongs_to_this_thread() {
#if defined(__linux__)
    thread_ = pthread_self();
#endif
  }

  // The worker says where it is, now and then.
  void update() { core_.store(this_core(), std::memory_order_relaxed); }
  int core() const { return core_.load(std::memory_order_relaxed); }

  void keep_off([[maybe_unused]] int core) {
#if defined(__linux__)
    if (core < 0 || !find_home()) return;
    cpu_set_t set = home_;
    CPU_CLR(core, &set);
    if (CPU_COUNT(&set) > 0) move_to(set);
#endif
  }

  void go_anywhere() {
#if defined(__linux__)
    if (!CPU_EQUAL(&home_, &here_) && find_home()) move_to(home_);
#endif
  }

 private:
  std::atomic<int> core_{-1};
#if defined(__linux__)
  // Where the worker may be: where it was last put by others.
  bool find_home() {
    cpu_set_t now;
    if (pthread_getaffinity_np(thread_, sizeof(now), &now) != 0) return false;
    if (!placed_ || !CPU_EQUAL(&now, &here_)) home_ = here_ = now;
    return placed_ = true;
  }

  void move_to(const cpu_set_t& set) {
    if (!CPU_EQUAL(&set, &here_) && pthread_setaffinity_np(thread_, sizeof(set), &set) == 0) here_ = set;
  }

  pthread_t thread_{};
  cpu_set_t home_{};
  cpu_set_t here_{};
  bool placed_ = false;
#endif
};

// The indices of a job, cut into as many runs as there are threads. Each thread begins with its own run, the
// same one in every job, and helps with others after it: so it finds in its cache what it wrote in the job
// before, where operations go over the same rows. The cores of a virtual machine may share no cache at all.
struct Job {
  struct alignas(64) Run {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  Job(int64_t n, int threads, void (*call)(void*, int64_t), void* context)
      : n(n), call(call), context(context), runs(static_cast<size_t>(threads)) {
    for (int i = 0; i < threads; ++i) {
      Run& run = runs[static_cast<size_t>(i)];
      run.next.store(n * i / threads, std::memory_order_relaxed);
      run.end = n * (i + 1) / threads;
    }
  }

  int64_t n;
  void (*call)(void*, int64_t);
  void* context;
  std::vector<Run> runs;
  int core = this_core();  // of the caller
  std::atomic<int64_t> done{0};
  std::mutex mutex;
  std::condition_variable finished;
  std::exception_ptr error;

  // Takes indices until none is left, those of run `first` first. The context is touched only while an index
  // is held, so a worker that wakes after the caller has returned finds nothing to do.
  // An exception (memory may run out) counts as done and is thrown again by the caller.
  void work(size_t first) {
    int64_t completed = 0;
    for (size_t k = 0; k < runs.size(); ++k) {
      Run& run = runs[(first + k) % runs.size()];
      if (run.next.load(std::memory_order_relaxed) >= run.end) continue;
      for (int64_t i; (i = run.next.fetch_add(1, std::memory_order_relaxed)) < run.end; ++completed) {
        try {
          call(context, i);
        } catch (...) {
          std::lock_guard lock(mutex);
          error = std::current_exception();
        }
      }
    }
    if (completed && done.fetch_add(completed, std::memory_order_acq_rel) + completed == n) {
      std::lock_guard lock(mutex);
      finished.notify_one();
    }
  }

  void wait() {
    for (int i = 0; i < kYields; ++i) {
      if (look_for([&] { return done.load(std::memory_order_acquire) == n; })) return;
      std::this_thread::yield();
    }
    std::unique_lock lock(mutex);
    finished.wait(lock, [&] { return done.load(std::memory_order_acquire) == n; });
  }
};

class Pool {
 public:
  void run(int helpers, const std::shared_ptr<Job>& job) {
    {
      std::lock_guard lock(mutex_);
      try {
        while (workers() < helpers) start();
      } catch (const std::system_error&) {
        // No more threads to be had: those that there are do the work.
      }
      for (auto& worker : workers_) {
        if (worker.is_asleep || worker.place.core() == job->core) worker.place.keep_off(job->core);
      }
      for (int i = 0; i < helpers; ++i) jobs_.push_back(job);
      waiting_.fetch_add(helpers, std::memory_order_relaxed);
    }
    helpers == 1 ? wake_.notify_one() : wake_.notify_all();
    job->work(0);
    job->wait();
    if (job->error) std::rethrow_exception(job->error);
  }

 private:
  struct Worker {
    explicit Worker(size_t run) : run(run) {}
    size_t run;  // of a job, to begin with; 0 is the caller's
    Place place;
    bool is_asleep = false;
  };

  int workers() const { return static_cast<int>(workers_.size()); }

  void start() {
    Worker& worker = workers_.emplace_back(workers_.size() + 1);
    try {
      std::thread([this, &worker] { loop(worker); }).detach();
    } catch (...) {
      workers_.pop_back();
      throw;
    }
  }

  void loop(Worker& self) {
    {
      std::lock_guard lock(mutex_);
      self.place.belongs_to_this_thread();
    }
    for (;;) {
      for (int i = 0; i < kYields; ++i) {
        if (look_for([&] { return waiting_.load(std::memory_order_relaxed) > 0; })) break;
        self.place.update();
        std::this_thread::yield();
      }
      std::shared_ptr<Job> job;
      {
        std::unique_lock lock(mutex_);
        self.is_asleep = true;
        wake_.wait(lock, [this] { return !jobs_.empty(); });
        self.is_asleep = false;
        job = std::move(jobs_.front());
        jobs_.pop_front();
        waiting_.fetch_sub(1, std::memory_order_relaxed);
        if (this_core() == job->core) self.place.keep_off(job->core);
        self.place.go_anywhere();
      }
      job->work(self.run);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::atomic<int64_t> waiting_{0};  // jobs_.size(), to be read without the lock
  std::deque<Worker> workers_;       // which stay where they are
};

// Never destroyed: workers may outlive static destructors.
std::atomic<Pool*> the_pool{nullptr};

Pool& pool() {
  static const bool made = [] {
    the_pool = new Pool;
#if defined(__linux__) || defined(__APPLE__)
    // A forked process has none of the threads.
    pthread_atfork(nullptr, nullptr, [] { the_pool = new Pool; });
#endif
    return true;
  }();
  static_cast<void>(made);
  return *the_pool;
}

int available_cores() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

constexpr int kMaxThreads = 256;

int threads_from_environment() {
  const char* text = std::getenv("GHOST_NATIVE_THREADS");
  if (!text || !*text) return std::min(available_cores(), kMaxThreads);
  char* end = nullptr;
  const long value = std::strtol(text, &end, 10);
  if (*end || value < 1 || value > kMaxThreads) {
    throw std::invalid_argument("[GHOST_NATIVE_THREADS] not a number of threads, given '" +
                                std::string(text) + "', allowed: 1 to " + std::to_string(kMaxThreads) + ".");
  }
  return static_cast<int>(value);
}

std::atomic<int>& threads() {
  static std::atomic<int> n = threads_from_environment();
  return n;
}

}  // namespace

int num_threads() { return threads().load(std::memory_order_relaxed); }

void set_num_threads(int n) {
  if (n < 1 || n > kMaxThreads) {
    throw std::invalid_argument("[set_num_threads] wrong number of threads, given " + std::to_string(n) +
                                ", allowed: 1 to " + std::to_string(kMaxThreads) + ".");
  }
  threads().store(n);
}

namespace detail {

void parallel_for(int64_t n, void (*call)(void*, int64_t), void* context) {
  const int helpers = static_cast<int>(std::min<int64_t>(n, num_threads())) - 1;
  if (helpers <= 0) {
    for (int64_t i = 0; i < n; ++i) call(context, i);
    return;
  }
  pool().run(helpers, std::make_shared<Job>(n, helpers + 1, call, context));
}

}  // namespace detail
}  // namespace ghost
