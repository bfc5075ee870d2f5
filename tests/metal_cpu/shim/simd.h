// Barriers, SIMD-group functions and quad-group functions. All 32 lanes hand their values over and wait;
// reductions and scans are then computed once, by the last lane that arrives.
#pragma once

#include "../runtime/machine.h"
#include "math.h"

// Default arguments are evaluated where the call is: the caller's line.
#define MSL_HERE ::msl::Site site = {__builtin_FILE(), __builtin_LINE()}

namespace msl {

template <class T>
MSL_UNTRACED inline T* values_in(Exchange& exchange) {
  return reinterpret_cast<T*>(exchange.in);
}
template <class T>
MSL_UNTRACED inline T* values_out(Exchange& exchange) {
  return reinterpret_cast<T*>(exchange.out);
}

// What a lane that takes no part hands over: NaN, or all bits set.
template <class T>
MSL_UNTRACED inline T poison() {
  T value;
  __builtin_memset(&value, 0xff, sizeof(value));
  return value;
}

template <class T>
MSL_GLUE Exchange& exchange(Collective kind, T value, Combine combine, Site site) {
  static_assert(sizeof(T) <= Exchange::kSlot, "a larger slot per lane is needed");
  Exchange& exchange = thread_now->simd->open();
  values_in<T>(exchange)[thread_now->lane] = value;
  meet(kind, combine, site);
  return exchange;
}

// A tree over the active lanes: the order of a butterfly of shuffles.
template <class T, class Op>
MSL_UNTRACED void combine_reduction(Exchange& exchange) {
  T* in = values_in<T>(exchange);
  uint32_t active = exchange.active;
  for (uint32_t stride = 1; stride < kSimdWidth; stride *= 2) {
    for (uint32_t i = 0; i + stride < kSimdWidth; i += 2 * stride) {
      const bool left = active >> i & 1;
      const bool right = active >> (i + stride) & 1;
      if (left && right) {
        in[i] = Op::apply(in[i], in[i + stride]);
      } else if (right) {
        in[i] = in[i + stride];
        active |= 1u << i;
      }
    }
  }
  values_out<T>(exchange)[0] = in[0];
}

template <class T, class Op>
MSL_GLUE T reduce(T value, Site site) {
  return values_out<T>(exchange<T>(Collective::reduction, value, combine_reduction<T, Op>, site))[0];
}

template <class T, class Op, bool inclusive>
MSL_UNTRACED void combine_scan(Exchange& exchange) {
  T running = Op::template identity<T>();
  for (uint32_t i = 0; i < kSimdWidth; ++i) {
    if (!(exchange.active >> i & 1)) continue;
    const T next = Op::apply(running, values_in<T>(exchange)[i]);
    values_out<T>(exchange)[i] = inclusive ? next : running;
    running = next;
  }
}

template <class T, class Op, bool inclusive>
MSL_GLUE T scan(T value, Site site) {
  return values_out<T>(
      exchange<T>(Collective::scan, value, combine_scan<T, Op, inclusive>, site))[thread_now->lane];
}

// The value of another lane; `own` where there is none.
template <class T>
MSL_GLUE T shuffle(T value, int lane, T own, Site site) {
  Exchange& all = exchange<T>(Collective::shuffle, value, nullptr, site);
  if (lane < 0 || lane >= int(kSimdWidth)) return own;
  return all.active >> lane & 1 ? values_in<T>(all)[lane] : poison<T>();
}

MSL_GLUE uint32_t ballot(bool value, Site site) {
  Exchange& all = exchange<uint32_t>(Collective::ballot, value, nullptr, site);
  uint32_t mask = 0;
  for (uint32_t i = 0; i < kSimdWidth; ++i) mask |= (values_in<uint32_t>(all)[i] & all.active >> i & 1) << i;
  return mask;
}

MSL_GLUE int lane_now() { return int(thread_now->lane); }

struct Add {
  template <class T>
  MSL_UNTRACED static T apply(T a, T b) {
    return T(a + b);
  }
  template <class T>
  MSL_UNTRACED static T identity() {
    return T(0);
  }
};
struct Multiply {
  template <class T>
  MSL_UNTRACED static T apply(T a, T b) {
    return T(a * b);
  }
  template <class T>
  MSL_UNTRACED static T identity() {
    return T(1);
  }
};
struct Min {
  template <class T>
  MSL_UNTRACED static T apply(T a, T b) {
    return metal::min(a, b);
  }
};
struct Max {
  template <class T>
  MSL_UNTRACED static T apply(T a, T b) {
    return metal::max(a, b);
  }
};
struct And {
  template <class T>
  MSL_UNTRACED static T apply(T a, T b) {
    return T(a & b);
  }
};
struct Or {
  template <class T>
  MSL_UNTRACED static T apply(T a, T b) {
    return T(a | b);
  }
};
struct Xor {
  template <class T>
  MSL_UNTRACED static T apply(T a, T b) {
    return T(a ^ b);
  }
};

}  // namespace msl

namespace metal {

enum class mem_flags : unsigned { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
MSL_INLINE constexpr mem_flags operator|(mem_flags a, mem_flags b) {
  return mem_flags(unsigned(a) | unsigned(b));
}

MSL_INLINE void threadgroup_barrier(mem_flags flags, MSL_HERE) {
  ::msl::threadgroup_barrier(unsigned(flags), site);
}
MSL_INLINE void simdgroup_barrier(mem_flags flags, MSL_HERE) {
  ::msl::simdgroup_barrier(unsigned(flags), site);
}

#define MSL_REDUCTION(name, Op)                      \
  template <class T>                                 \
  MSL_INLINE T name(T value, MSL_HERE) {             \
    return ::msl::reduce<T, ::msl::Op>(value, site); \
  }
MSL_REDUCTION(simd_sum, Add)
MSL_REDUCTION(simd_product, Multiply)
MSL_REDUCTION(simd_min, Min)
MSL_REDUCTION(simd_max, Max)
MSL_REDUCTION(simd_and, And)
MSL_REDUCTION(simd_or, Or)
MSL_REDUCTION(simd_xor, Xor)
#undef MSL_REDUCTION

#define MSL_SCAN(name, Op, inclusive)                         \
  template <class T>                                          \
  MSL_INLINE T name(T value, MSL_HERE) {                      \
    return ::msl::scan<T, ::msl::Op, inclusive>(value, site); \
  }
MSL_SCAN(simd_prefix_inclusive_sum, Add, true)
MSL_SCAN(simd_prefix_exclusive_sum, Add, false)
MSL_SCAN(simd_prefix_inclusive_product, Multiply, true)
MSL_SCAN(simd_prefix_exclusive_product, Multiply, false)
#undef MSL_SCAN

struct simd_vote {
  ulong mask;
  explicit operator ulong() const { return mask; }
};
MSL_INLINE simd_vote simd_ballot(bool value, MSL_HERE) { return {::msl::ballot(value, site)}; }
MSL_INLINE simd_vote simd_active_threads_mask(MSL_HERE) { return {::msl::ballot(true, site)}; }
MSL_INLINE bool simd_all(bool value, MSL_HERE) { return ::msl::ballot(!value, site) == 0; }
MSL_INLINE bool simd_any(bool value, MSL_HERE) { return ::msl::ballot(value, site) != 0; }
MSL_INLINE bool simd_is_first(MSL_HERE) {
  return __builtin_ctz(::msl::ballot(true, site)) == ::msl::lane_now();
}

template <class T>
MSL_INLINE T simd_shuffle(T value, ushort lane, MSL_HERE) {
  return ::msl::shuffle<T>(value, lane & 31, value, site);
}
template <class T>
MSL_INLINE T simd_broadcast(T value, ushort lane, MSL_HERE) {
  return ::msl::shuffle<T>(value, lane & 31, value, site);
}
template <class T>
MSL_INLINE T simd_broadcast_first(T value, MSL_HERE) {
  const int first = __builtin_ctz(::msl::ballot(true, site));
  return ::msl::shuffle<T>(value, first, value, site);
}
template <class T>
MSL_INLINE T simd_shuffle_xor(T value, ushort mask, MSL_HERE) {
  return ::msl::shuffle<T>(value, (::msl::lane_now() ^ mask) & 31, value, site);
}
template <class T>
MSL_INLINE T simd_shuffle_down(T value, ushort delta, MSL_HERE) {
  return ::msl::shuffle<T>(value, ::msl::lane_now() + delta, value, site);
}
template <class T>
MSL_INLINE T simd_shuffle_up(T value, ushort delta, MSL_HERE) {
  return ::msl::shuffle<T>(value, ::msl::lane_now() - delta, value, site);
}
template <class T>
MSL_INLINE T simd_shuffle_rotate_down(T value, ushort delta, MSL_HERE) {
  return ::msl::shuffle<T>(value, (::msl::lane_now() + delta) & 31, value, site);
}
template <class T>
MSL_INLINE T simd_shuffle_rotate_up(T value, ushort delta, MSL_HERE) {
  return ::msl::shuffle<T>(value, (::msl::lane_now() - delta) & 31, value, site);
}
template <class T>
MSL_INLINE T simd_shuffle_and_fill_up(T value, T fill, ushort delta, MSL_HERE) {
  const int from = ::msl::lane_now() - delta;
  const T filled = ::msl::shuffle<T>(fill, from & 31, fill, site);
  return ::msl::shuffle<T>(value, from, filled, site);
}
template <class T>
MSL_INLINE T simd_shuffle_and_fill_down(T value, T fill, ushort delta, MSL_HERE) {
  const int from = ::msl::lane_now() + delta;
  const T filled = ::msl::shuffle<T>(fill, from & 31, fill, site);
  return ::msl::shuffle<T>(value, from, filled, site);
}

// Quad-group functions wait for the whole SIMD-group, which is stricter than Metal is.
template <class T>
MSL_INLINE T quad_shuffle(T value, ushort lane, MSL_HERE) {
  return ::msl::shuffle<T>(value, (::msl::lane_now() & ~3) | (lane & 3), value, site);
}
template <class T>
MSL_INLINE T quad_broadcast(T value, ushort lane, MSL_HERE) {
  return quad_shuffle(value, lane, site);
}
template <class T>
MSL_INLINE T quad_shuffle_xor(T value, ushort mask, MSL_HERE) {
  return ::msl::shuffle<T>(value, ::msl::lane_now() ^ (mask & 3), value, site);
}
template <class T>
MSL_INLINE T quad_sum(T value, MSL_HERE) {
  const T pair = T(value + quad_shuffle_xor(value, 1, site));
  return T(pair + quad_shuffle_xor(pair, 2, site));
}

}  // namespace metal
