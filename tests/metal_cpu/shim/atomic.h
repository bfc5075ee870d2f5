// Relaxed atomics. GPU threads take turns on one host thread, so plain operations are atomic here.
#pragma once

#include "../runtime/machine.h"
#include "math.h"

namespace msl {

template <class P>
MSL_INLINE void note_atomic([[maybe_unused]] P* object, [[maybe_unused]] bool loads,
                            [[maybe_unused]] bool stores) {
#if !defined(MSL_FAST)
  atomic_access((void*)&object->value, sizeof(object->value), loads, stores);
#endif
}

template <class A>
MSL_GLUE auto atomic_get(A* object) {
  auto value = object->value;
  return value;
}

template <class A, class V>
MSL_GLUE void atomic_set(A* object, V value) {
  object->value = value;
}

}  // namespace msl

namespace metal {

enum memory_order { memory_order_relaxed };

template <class T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;

template <class A>
MSL_INLINE auto atomic_load_explicit(A* object, memory_order) {
  ::msl::note_atomic(object, true, false);
  return ::msl::atomic_get(object);
}
template <class A, class V>
MSL_INLINE void atomic_store_explicit(A* object, V value, memory_order) {
  ::msl::note_atomic(object, false, true);
  ::msl::atomic_set(object, value);
}

#define MSL_ATOMIC(name, expression)                         \
  template <class A, class V>                                \
  MSL_INLINE auto name(A* object, V operand, memory_order) { \
    ::msl::note_atomic(object, true, true);                  \
    const auto old = ::msl::atomic_get(object);              \
    typedef std::remove_cv_t<decltype(old)> T;               \
    [[maybe_unused]] const T value = T(operand);             \
    ::msl::atomic_set(object, T(expression));                \
    return T(old);                                           \
  }
MSL_ATOMIC(atomic_exchange_explicit, value)
MSL_ATOMIC(atomic_fetch_add_explicit, old + value)
MSL_ATOMIC(atomic_fetch_sub_explicit, old - value)
MSL_ATOMIC(atomic_fetch_and_explicit, old& value)
MSL_ATOMIC(atomic_fetch_or_explicit, old | value)
MSL_ATOMIC(atomic_fetch_xor_explicit, old ^ value)
MSL_ATOMIC(atomic_fetch_min_explicit, min(old, value))
MSL_ATOMIC(atomic_fetch_max_explicit, max(old, value))
#undef MSL_ATOMIC

template <class A, class E, class V>
MSL_INLINE bool atomic_compare_exchange_weak_explicit(A* object, E* expected, V desired, memory_order,
                                                      memory_order) {
  ::msl::note_atomic(object, true, true);
  const auto old = ::msl::atomic_get(object);
  if (old == *expected) {
    ::msl::atomic_set(object, desired);
    return true;
  }
  *expected = old;
  return false;
}

}  // namespace metal
