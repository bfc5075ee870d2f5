// Metal's mathematical functions. All are computed in float32 by the host's library and rounded once to the
// type: the errors of Apple's approximations and of flushed denormal numbers are not modelled.
//
// Arguments of one call must have the same type, as Metal's overloads demand; a mixed call that C++ would
// accept is ambiguous on a Mac.
#pragma once

#include "types.h"

namespace metal {

template <class T>
concept Float = is_floating_point_v<T>;
template <class T>
concept Integer = std::is_integral_v<T>;
template <class T>
concept Scalar = is_arithmetic_v<T>;
template <class T>
concept Vector = ::msl::is_vector<T>;

#define MSL_EACH(V, expression)                                       \
  V result;                                                           \
  for (int i = 0; i < ::msl::size_of<V>; ++i) result[i] = expression; \
  return result

#define MSL_UNARY(name, expression)               \
  template <Float T>                              \
  MSL_INLINE T name(T value) {                    \
    const float x = float(value);                 \
    return T(expression);                         \
  }                                               \
  template <Vector V>                             \
  MSL_INLINE V name(V v) {                        \
    MSL_EACH(V, name(::msl::ElementOf<V>(v[i]))); \
  }

#define MSL_BINARY(name, expression)                                         \
  template <Float T>                                                         \
  MSL_INLINE T name(T first, T second) {                                     \
    const float x = float(first);                                            \
    const float y = float(second);                                           \
    return T(expression);                                                    \
  }                                                                          \
  template <Vector V>                                                        \
  MSL_INLINE V name(V a, V b) {                                              \
    MSL_EACH(V, name(::msl::ElementOf<V>(a[i]), ::msl::ElementOf<V>(b[i]))); \
  }

#define MSL_APPROXIMATED                      \
  MSL_UNARY(exp, __builtin_expf(x))           \
  MSL_UNARY(exp2, __builtin_exp2f(x))         \
  MSL_UNARY(exp10, __builtin_powf(10.0f, x))  \
  MSL_UNARY(log, __builtin_logf(x))           \
  MSL_UNARY(log2, __builtin_log2f(x))         \
  MSL_UNARY(log10, __builtin_log10f(x))       \
  MSL_UNARY(sin, __builtin_sinf(x))           \
  MSL_UNARY(cos, __builtin_cosf(x))           \
  MSL_UNARY(tan, __builtin_tanf(x))           \
  MSL_UNARY(asin, __builtin_asinf(x))         \
  MSL_UNARY(acos, __builtin_acosf(x))         \
  MSL_UNARY(atan, __builtin_atanf(x))         \
  MSL_UNARY(sinh, __builtin_sinhf(x))         \
  MSL_UNARY(cosh, __builtin_coshf(x))         \
  MSL_UNARY(tanh, __builtin_tanhf(x))         \
  MSL_UNARY(sqrt, __builtin_sqrtf(x))         \
  MSL_UNARY(rsqrt, 1.0f / __builtin_sqrtf(x)) \
  MSL_UNARY(fabs, __builtin_fabsf(x))         \
  MSL_UNARY(floor, __builtin_floorf(x))       \
  MSL_UNARY(ceil, __builtin_ceilf(x))         \
  MSL_UNARY(rint, __builtin_rintf(x))         \
  MSL_UNARY(round, __builtin_roundf(x))       \
  MSL_UNARY(trunc, __builtin_truncf(x))       \
  MSL_UNARY(fract, x - __builtin_floorf(x))   \
  MSL_BINARY(pow, __builtin_powf(x, y))       \
  MSL_BINARY(powr, __builtin_powf(x, y))      \
  MSL_BINARY(atan2, __builtin_atan2f(x, y))   \
  MSL_BINARY(fmod, __builtin_fmodf(x, y))     \
  MSL_BINARY(divide, x / y)                   \
  MSL_BINARY(fmin, __builtin_fminf(x, y))     \
  MSL_BINARY(fmax, __builtin_fmaxf(x, y))

MSL_APPROXIMATED
namespace fast {
MSL_APPROXIMATED
}
namespace precise {
MSL_APPROXIMATED
}

MSL_UNARY(sign, x > 0.0f ? 1.0f : x < 0.0f ? -1.0f : x)
MSL_UNARY(saturate, x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f)
MSL_BINARY(copysign, __builtin_copysignf(x, y))
MSL_BINARY(step, y < x ? 0.0f : 1.0f)

template <Float T>
MSL_INLINE T ldexp(T x, int exponent) {
  return T(__builtin_ldexpf(float(x), exponent));
}
template <Float T>
MSL_INLINE T frexp(T x, int& exponent) {
  return T(__builtin_frexpf(float(x), &exponent));
}
template <Float T>
MSL_INLINE T fma(T a, T b, T c) {
  return T(__builtin_fmaf(float(a), float(b), float(c)));
}
template <Vector V>
MSL_INLINE V fma(V a, V b, V c) {
  using E = ::msl::ElementOf<V>;
  MSL_EACH(V, fma(E(a[i]), E(b[i]), E(c[i])));
}
template <Float T>
MSL_INLINE T mix(T a, T b, T t) {
  return a + (b - a) * t;
}

template <Float T>
MSL_INLINE bool isnan(T x) {
  return __builtin_isnan(float(x));
}
template <Float T>
MSL_INLINE bool isinf(T x) {
  return __builtin_isinf(float(x));
}
template <Float T>
MSL_INLINE bool isfinite(T x) {
  return __builtin_isfinite(float(x));
}
template <Float T>
MSL_INLINE bool signbit(T x) {
  return __builtin_signbit(float(x));
}

template <Float T>
MSL_INLINE T abs(T x) {
  return T(__builtin_fabsf(float(x)));
}
template <Integer T>
MSL_INLINE T abs(T x) {
  return x < T(0) ? T(-x) : x;
}

// A NaN loses against a number.
template <Scalar T>
MSL_INLINE T min(T a, T b) {
  if constexpr (Float<T>) {
    if (a != a) return b;
    if (b != b) return a;
  }
  return b < a ? b : a;
}
template <Scalar T>
MSL_INLINE T max(T a, T b) {
  if constexpr (Float<T>) {
    if (a != a) return b;
    if (b != b) return a;
  }
  return a < b ? b : a;
}
template <Vector V>
MSL_INLINE V min(V a, V b) {
  using E = ::msl::ElementOf<V>;
  MSL_EACH(V, min(E(a[i]), E(b[i])));
}
template <Vector V>
MSL_INLINE V max(V a, V b) {
  using E = ::msl::ElementOf<V>;
  MSL_EACH(V, max(E(a[i]), E(b[i])));
}
template <class T>
MSL_INLINE T clamp(T x, T low, T high) {
  return min(max(x, low), high);
}
template <Vector V>
MSL_INLINE V abs(V v) {
  MSL_EACH(V, abs(::msl::ElementOf<V>(v[i])));
}

template <Scalar T>
MSL_INLINE T select(T if_false, T if_true, bool condition) {
  return condition ? if_true : if_false;
}
template <Vector V, Vector C>
MSL_INLINE V select(V if_false, V if_true, C condition) {
  MSL_EACH(V, condition[i] ? if_true[i] : if_false[i]);
}
template <Vector C>
MSL_INLINE bool all(C condition) {
  bool result = true;
  for (int i = 0; i < ::msl::size_of<C>; ++i) result = result && condition[i];
  return result;
}
template <Vector C>
MSL_INLINE bool any(C condition) {
  bool result = false;
  for (int i = 0; i < ::msl::size_of<C>; ++i) result = result || condition[i];
  return result;
}
MSL_INLINE bool all(bool condition) { return condition; }
MSL_INLINE bool any(bool condition) { return condition; }

template <Vector V>
MSL_INLINE ::msl::ElementOf<V> dot(V a, V b) {
  ::msl::ElementOf<V> sum = a[0] * b[0];
  for (int i = 1; i < ::msl::size_of<V>; ++i) sum = sum + a[i] * b[i];
  return sum;
}
template <Vector V>
MSL_INLINE ::msl::ElementOf<V> length_squared(V v) {
  return dot(v, v);
}
template <Vector V>
MSL_INLINE ::msl::ElementOf<V> length(V v) {
  return sqrt(dot(v, v));
}

template <Integer T>
constexpr int kBits = 8 * static_cast<int>(sizeof(T));

template <Integer T>
MSL_INLINE T popcount(T x) {
  return T(__builtin_popcountll(std::make_unsigned_t<T>(x)));
}
template <Integer T>
MSL_INLINE T clz(T x) {
  return x == 0 ? T(kBits<T>) : T(__builtin_clzll(std::make_unsigned_t<T>(x)) - (64 - kBits<T>));
}
template <Integer T>
MSL_INLINE T ctz(T x) {
  return x == 0 ? T(kBits<T>) : T(__builtin_ctzll(std::make_unsigned_t<T>(x)));
}
template <Integer T>
MSL_INLINE T mulhi(T a, T b) {
  using Wide = std::conditional_t<sizeof(T) == 8, __int128, int64_t>;
  using Unsigned = std::conditional_t<sizeof(T) == 8, unsigned __int128, uint64_t>;
  using Product = std::conditional_t<std::is_signed_v<T>, Wide, Unsigned>;
  return T((Product(a) * Product(b)) >> kBits<T>);
}
template <Integer T>
MSL_INLINE T rotate(T x, T by) {
  using U = std::make_unsigned_t<T>;
  const int n = int(by) & (kBits<T> - 1);
  return n == 0 ? x : T(U(x) << n | U(x) >> (kBits<T> - n));
}
template <Integer T>
MSL_INLINE T extract_bits(T x, uint offset, uint bits) {
  if (bits == 0) return T(0);
  const int left = kBits<T> - int(bits) - int(offset);
  return T(T(std::make_unsigned_t<T>(x) << left) >> (kBits<T> - int(bits)));
}
template <Integer T>
MSL_INLINE T insert_bits(T base, T insert, uint offset, uint bits) {
  if (bits == 0) return base;
  using U = std::make_unsigned_t<T>;
  const U mask = U(U(~U(0)) >> (kBits<T> - int(bits))) << offset;
  return T((U(base) & ~mask) | ((U(insert) << offset) & mask));
}
template <Integer T>
MSL_INLINE T reverse_bits(T x) {
  std::make_unsigned_t<T> from = x;
  std::make_unsigned_t<T> to = 0;
  for (int i = 0; i < kBits<T>; ++i, from >>= 1) to = to << 1 | (from & 1);
  return T(to);
}
MSL_INLINE int mul24(int a, int b) { return a * b; }
MSL_INLINE uint mul24(uint a, uint b) { return a * b; }

#undef MSL_EACH
#undef MSL_UNARY
#undef MSL_BINARY
#undef MSL_APPROXIMATED

}  // namespace metal
