#pragma once

#include <metal_stdlib>

#include "codebook_matmul/decode.h"
#include "common/unroll.h"

using namespace metal;

// Sixteen bytes of elements of type T, as loaded: conversion to float waits until an element is used.
template <typename T>
struct Chunk {
  static constant constexpr const int size = 16 / sizeof(T);
};

METAL_FUNC uint bits_of(float v) { return as_type<uint>(v); }
METAL_FUNC uint bits_of(half v) { return uint(as_type<ushort>(v)); }
METAL_FUNC uint bits_of(bfloat v) { return uint(as_type<ushort>(v)); }

// Elements of x from p on; the first `count` of them, the others zero.
template <typename T>
METAL_FUNC uint4 load_chunk(const device T* p, int count) {
  constexpr int size = Chunk<T>::size;
  constexpr int in_word = size / 4;
  if (x_vectors) return count > 0 ? *(const device uint4*)p : uint4(0u);
  uint4 raw = uint4(0u);
  GHOST_UNROLL
  for (int i = 0; i < size; ++i) {
    if (i < count) raw[i / in_word] |= bits_of(p[i]) << (16 * (i % in_word));
  }
  return raw;
}

template <typename T>
METAL_FUNC float2 unpack_word(uint word);
template <>
METAL_FUNC float2 unpack_word<half>(uint word) {
  return float2(as_type<half2>(word));
}
// A bfloat is the high half of a float.
template <>
METAL_FUNC float2 unpack_word<bfloat>(uint word) {
  return float2(as_type<float>(word << 16), as_type<float>(word & 0xffff0000u));
}

// Element i of a chunk.
template <typename T>
METAL_FUNC float element(uint4 raw, int i) {
  const float2 pair = unpack_word<T>(raw[i / 2]);
  return i % 2 ? pair.y : pair.x;
}
template <>
METAL_FUNC float element<float>(uint4 raw, int i) {
  return as_type<float>(uint(raw[i]));
}

// Two floats as a word of half precision.
template <typename T>
METAL_FUNC uint pack_word(float first, float second) {
  return bits_of(T(first)) | (bits_of(T(second)) << 16);
}

// Four floats at a multiple of four elements.
template <typename T>
METAL_FUNC void store_four(device T* p, float4 v) {
  *(device uint2*)p = uint2(pack_word<T>(v.x, v.y), pack_word<T>(v.z, v.w));
}
template <>
METAL_FUNC void store_four<float>(device float* p, float4 v) {
  *(device float4*)p = v;
}
