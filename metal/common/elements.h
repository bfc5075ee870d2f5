#pragma once

#include <metal_stdlib>

#include "common/unroll.h"

using namespace metal;

// Two half-precision elements in a word.
template <typename T>
METAL_FUNC void unpack_pair(uint word, thread float* v) {
  v[0] = float(as_type<T>(ushort(word & 0xffffu)));
  v[1] = float(as_type<T>(ushort(word >> 16)));
}

template <typename T>
METAL_FUNC uint pack_pair(const thread float* v) {
  return uint(as_type<ushort>(T(v[0]))) | (uint(as_type<ushort>(T(v[1]))) << 16);
}

// N neighbouring elements of type T as one load or store, computed with as float32. N > 1 needs addresses
// that are multiples of N elements: row pitch and base both. `Raw` is what the load brings, so that several
// can be in flight before the first is converted.
//
// half and bfloat: two in a word, four or eight together.
template <typename T, int N>
struct Elements {
  typedef vec<uint, N / 2> Raw;
  static METAL_FUNC Raw fetch(const device T* p) { return *(const device Raw*)p; }
  static METAL_FUNC void put(device T* p, Raw raw) { *(device Raw*)p = raw; }
  static METAL_FUNC Raw zero() { return Raw(0u); }
  static METAL_FUNC void unpack(Raw raw, thread float* v) {
    GHOST_UNROLL
    for (int i = 0; i < N / 2; ++i) unpack_pair<T>(raw[i], v + 2 * i);
  }
  static METAL_FUNC Raw pack(const thread float* v) {
    Raw raw;
    GHOST_UNROLL
    for (int i = 0; i < N / 2; ++i) raw[i] = pack_pair<T>(v + 2 * i);
    return raw;
  }
};

template <typename T>
struct Elements<T, 1> {
  typedef T Raw;
  static METAL_FUNC Raw fetch(const device T* p) { return p[0]; }
  static METAL_FUNC void put(device T* p, Raw raw) { p[0] = raw; }
  static METAL_FUNC Raw zero() { return T(0.0f); }
  static METAL_FUNC void unpack(Raw raw, thread float* v) { v[0] = float(raw); }
  static METAL_FUNC Raw pack(const thread float* v) { return T(v[0]); }
};

template <>
struct Elements<float, 4> {
  typedef uint4 Raw;
  static METAL_FUNC Raw fetch(const device float* p) { return *(const device uint4*)p; }
  static METAL_FUNC void put(device float* p, Raw raw) { *(device uint4*)p = raw; }
  static METAL_FUNC Raw zero() { return uint4(0u); }
  static METAL_FUNC void unpack(Raw raw, thread float* v) {
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = as_type<float>(uint(raw[i]));
  }
  static METAL_FUNC Raw pack(const thread float* v) {
    Raw raw;
    GHOST_UNROLL
    for (int i = 0; i < 4; ++i) raw[i] = as_type<uint>(v[i]);
    return raw;
  }
};

// How many elements of T make a load of 16 bytes.
template <typename T>
struct Pack {
  static constant constexpr const int size = 16 / sizeof(T);
};
