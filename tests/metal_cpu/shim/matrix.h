// simdgroup_matrix: 8 x 8, two neighbouring elements of a row per lane, laid out as on Apple's GPUs.
#pragma once

#include "simd.h"

namespace msl {

struct Element {
  int row;
  int column;
};

// The first of a lane's two elements.
MSL_UNTRACED constexpr Element element_of(int lane) {
  return {(lane >> 4 & 1) * 4 + (lane >> 1 & 3), (lane >> 3 & 1) * 4 + (lane & 1) * 2};
}

template <class A, class B, class C>
struct Factors {
  metal::vec<A, 2> a;
  metal::vec<B, 2> b;
  metal::vec<C, 2> c;
};

// The whole product at once: c + a b in float32, the terms in the order of k.
template <class D, class A, class B, class C>
MSL_UNTRACED void combine_product(Exchange& exchange) {
  const Factors<A, B, C>* in = values_in<Factors<A, B, C>>(exchange);
  float a[8][8];
  float b[8][8];
  float d[8][8];
  for (int lane = 0; lane < int(kSimdWidth); ++lane) {
    const Element e = element_of(lane);
    for (int j = 0; j < 2; ++j) {
      a[e.row][e.column + j] = float(in[lane].a[j]);
      b[e.row][e.column + j] = float(in[lane].b[j]);
      d[e.row][e.column + j] = float(in[lane].c[j]);
    }
  }
  for (int row = 0; row < 8; ++row) {
    for (int k = 0; k < 8; ++k) {
      for (int column = 0; column < 8; ++column) d[row][column] += a[row][k] * b[k][column];
    }
  }
  auto* out = values_out<metal::vec<D, 2>>(exchange);
  for (int lane = 0; lane < int(kSimdWidth); ++lane) {
    const Element e = element_of(lane);
    for (int j = 0; j < 2; ++j) out[lane][j] = D(d[e.row][e.column + j]);
  }
}

template <class D, class A, class B, class C>
MSL_GLUE metal::vec<D, 2> multiply(metal::vec<A, 2> a, metal::vec<B, 2> b, metal::vec<C, 2> c, Site site) {
  Exchange& all =
      exchange<Factors<A, B, C>>(Collective::matrix, {a, b, c}, combine_product<D, A, B, C>, site);
  return values_out<metal::vec<D, 2>>(all)[thread_now->lane];
}

// Loads and stores of a matrix move each lane's elements by themselves; traced, the lanes must all get there.
MSL_INLINE void meet_for_copy([[maybe_unused]] Site site) {
#if !defined(MSL_FAST)
  meet(Collective::copy, nullptr, site);
#endif
}

}  // namespace msl

namespace metal {

template <class T, int Columns = 8, int Rows = 8>
struct simdgroup_matrix {
  static_assert(Columns == 8 && Rows == 8, "Metal has matrices of 8 x 8 only");
  typedef vec<T, 2> Elements;
  Elements elements;

  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    const ::msl::Element e = ::msl::element_of(::msl::lane_now());
    elements[0] = e.row == e.column ? diagonal : T(0);
    elements[1] = e.row == e.column + 1 ? diagonal : T(0);
  }
  Elements& thread_elements() { return elements; }
  const Elements& thread_elements() const { return elements; }
};

typedef simdgroup_matrix<float> simdgroup_float8x8;
typedef simdgroup_matrix<half> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat> simdgroup_bfloat8x8;

template <class T, int Columns, int Rows>
MSL_INLINE simdgroup_matrix<T, Columns, Rows> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, Columns, Rows> m;
  m.elements[0] = value;
  m.elements[1] = value;
  return m;
}

template <class D, class A, class B, class C>
MSL_INLINE void simdgroup_multiply_accumulate(simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a,
                                              const simdgroup_matrix<B>& b, const simdgroup_matrix<C>& c,
                                              MSL_HERE) {
  d.elements = ::msl::multiply<D, A, B, C>(a.elements, b.elements, c.elements, site);
}

template <class D, class A, class B>
MSL_INLINE void simdgroup_multiply(simdgroup_matrix<D>& d, const simdgroup_matrix<A>& a,
                                   const simdgroup_matrix<B>& b, MSL_HERE) {
  d.elements = ::msl::multiply<D, A, B, D>(a.elements, b.elements, vec<D, 2>{D(0), D(0)}, site);
}

// The types agree on a Mac: a matrix of T is loaded from memory of T.
template <class T, class P>
MSL_INLINE void simdgroup_load(simdgroup_matrix<T>& m, P* p, ulong elements_per_row = 8,
                               vec<ulong, 2> origin = {0, 0}, bool transpose = false, MSL_HERE) {
  static_assert(std::is_same_v<std::remove_cvref_t<decltype(T(*p))>, T> && sizeof(*p) == sizeof(T));
  const ::msl::Element e = ::msl::element_of(::msl::lane_now());
  p += origin[1] * elements_per_row + origin[0];
  for (int j = 0; j < 2; ++j) {
    m.elements[j] = transpose ? p[ulong(e.column + j) * elements_per_row + ulong(e.row)]
                              : p[ulong(e.row) * elements_per_row + ulong(e.column + j)];
  }
  ::msl::meet_for_copy(site);
}

template <class T, class P>
MSL_INLINE void simdgroup_store(const simdgroup_matrix<T>& m, P* p, ulong elements_per_row = 8,
                                vec<ulong, 2> origin = {0, 0}, bool transpose = false, MSL_HERE) {
  static_assert(sizeof(*p) == sizeof(T));
  const ::msl::Element e = ::msl::element_of(::msl::lane_now());
  p += origin[1] * elements_per_row + origin[0];
  for (int j = 0; j < 2; ++j) {
    if (transpose) {
      p[ulong(e.column + j) * elements_per_row + ulong(e.row)] = m.elements[j];
    } else {
      p[ulong(e.row) * elements_per_row + ulong(e.column + j)] = m.elements[j];
    }
  }
  ::msl::meet_for_copy(site);
}

}  // namespace metal
