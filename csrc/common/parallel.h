#pragma once

#include <cstdint>
#include <type_traits>

namespace ghost {

// Threads used by parallel_for, the caller included: GHOST_NATIVE_THREADS when set, else the cores available.
int num_threads();
void set_num_threads(int n);

namespace detail {
void parallel_for(int64_t n, void (*call)(void*, int64_t), void* context);
}

// Runs fn(i) for every i in [0, n) and returns when all are done. Which thread runs which i is unspecified,
// so fn(i) writes only what i owns; results then do not depend on the number of threads. Cut the work by
// shape, never by num_threads(). Waiting threads block. Calls from several threads at once share the workers.
template <class Fn>
void parallel_for(int64_t n, Fn&& fn) {
  using F = std::remove_reference_t<Fn>;
  detail::parallel_for(
      n, [](void* f, int64_t i) { (*static_cast<F*>(f))(i); }, const_cast<std::remove_const_t<F>*>(&fn));
}

// The same where `worth`, else on this thread alone: handing out work takes as long as a little of it.
template <class Fn>
void parallel_for_if(bool worth, int64_t n, Fn&& fn) {
  if (worth) return parallel_for(n, fn);
  for (int64_t i = 0; i < n; ++i) fn(i);
}

}  // namespace ghost
