// Metal's scalar and vector types as C++: clang's ext_vector_type gives the arithmetic and the swizzles.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../runtime/machine.h"

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef _Float16 half;
typedef __bf16 bfloat;
using std::ptrdiff_t;
using std::size_t;

#define MSL_VECTORS(T)                                \
  typedef T T##2 __attribute__((ext_vector_type(2))); \
  typedef T T##3 __attribute__((ext_vector_type(3))); \
  typedef T T##4 __attribute__((ext_vector_type(4)));
MSL_VECTORS(char)
MSL_VECTORS(uchar)
MSL_VECTORS(short)
MSL_VECTORS(ushort)
MSL_VECTORS(int)
MSL_VECTORS(uint)
MSL_VECTORS(long)
MSL_VECTORS(ulong)
MSL_VECTORS(half)
MSL_VECTORS(bfloat)
MSL_VECTORS(float)
#undef MSL_VECTORS

// Functions of Metal's library are part of their callers: their work and their lines are the kernel's.
#define MSL_INLINE inline __attribute__((always_inline))

// 1.0h
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wuser-defined-literals"
constexpr half operator""h(long double value) { return static_cast<half>(value); }
#pragma clang diagnostic pop

namespace msl {

template <class V>
struct VectorOf {
  static constexpr int size = 1;
  using Element = V;
};
template <class E, int N>
struct VectorOf<E __attribute__((ext_vector_type(N)))> {
  static constexpr int size = N;
  using Element = E;
};
template <class V>
using ElementOf = typename VectorOf<V>::Element;
template <class V>
constexpr int size_of = VectorOf<V>::size;
template <class V>
constexpr bool is_vector = size_of<std::remove_cv_t<V>> > 1;

template <class V, class A>
MSL_INLINE void append(V& result, int& at, A part) {
  if constexpr (is_vector<A>) {
    for (int k = 0; k < size_of<A>; ++k) result[at++] = static_cast<ElementOf<V>>(part[k]);
  } else {
    result[at++] = static_cast<ElementOf<V>>(part);
  }
}

// float4(a, b, c, d), float4(xy, zw), float4(x), float4(other): every part is converted element by element.
template <class V, class... Parts>
MSL_INLINE V make(Parts... parts) {
  if constexpr (!is_vector<V>) {
    return V(parts...);
  } else if constexpr (sizeof...(Parts) == 1 && (!is_vector<Parts> && ...)) {
    const auto element = static_cast<ElementOf<V>>((parts, ...));
    V result;
    for (int k = 0; k < size_of<V>; ++k) result[k] = element;
    return result;
  } else {
    static_assert((size_of<std::remove_cv_t<Parts>> + ... + 0) == size_of<V> || sizeof...(Parts) == 0,
                  "as many elements as the vector has");
    V result = {};
    int at = 0;
    (append(result, at, parts), ...);
    return result;
  }
}

}  // namespace msl

template <class To, class From>
MSL_INLINE To as_type(From from) {
  static_assert(sizeof(To) == sizeof(From), "as_type keeps the bits");
  return __builtin_bit_cast(To, from);
}

namespace metal {

using ::as_type;
using ::bfloat;
using ::half;
using ::uchar;
using ::uint;
using ::ulong;
using ::ushort;

template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));

using std::bool_constant;
using std::conditional;
using std::conditional_t;
using std::declval;
using std::enable_if;
using std::enable_if_t;
using std::false_type;
using std::integral_constant;
using std::is_convertible;
using std::is_convertible_v;
using std::is_integral;
using std::is_integral_v;
using std::is_same;
using std::is_same_v;
using std::is_signed;
using std::is_signed_v;
using std::is_unsigned;
using std::is_unsigned_v;
using std::make_signed_t;
using std::make_unsigned_t;
using std::remove_cv_t;
using std::remove_reference_t;
using std::true_type;
using std::void_t;

template <class T>
constexpr bool is_floating_point_v =
    std::is_floating_point_v<T> || std::is_same_v<T, half> || std::is_same_v<T, bfloat>;
template <class T>
struct is_floating_point : bool_constant<is_floating_point_v<T>> {};
template <class T>
constexpr bool is_arithmetic_v = std::is_integral_v<T> || is_floating_point_v<T>;

template <class T, int N>
struct array {
  T elements[N];
  T& operator[](int i) { return elements[i]; }
  const T& operator[](int i) const { return elements[i]; }
};

template <class T>
struct numeric_limits : std::numeric_limits<T> {};
template <>
struct numeric_limits<half> {
  static constexpr half max() { return static_cast<half>(65504.0f); }
  static constexpr half lowest() { return static_cast<half>(-65504.0f); }
  static constexpr half min() { return static_cast<half>(6.103515625e-05f); }
  static constexpr half epsilon() { return static_cast<half>(0.0009765625f); }
  static constexpr half infinity() { return static_cast<half>(__builtin_inff()); }
  static constexpr half quiet_NaN() { return static_cast<half>(__builtin_nanf("")); }
};
template <>
struct numeric_limits<bfloat> {
  static constexpr bfloat max() { return static_cast<bfloat>(3.3895313892515355e38f); }
  static constexpr bfloat lowest() { return static_cast<bfloat>(-3.3895313892515355e38f); }
  static constexpr bfloat min() { return static_cast<bfloat>(1.17549435e-38f); }
  static constexpr bfloat epsilon() { return static_cast<bfloat>(0.0078125f); }
  static constexpr bfloat infinity() { return static_cast<bfloat>(__builtin_inff()); }
  static constexpr bfloat quiet_NaN() { return static_cast<bfloat>(__builtin_nanf("")); }
};

}  // namespace metal
