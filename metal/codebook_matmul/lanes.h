#pragma once

#include <metal_simdgroup>
#include <metal_stdlib>

using namespace metal;

// Where a lane's two elements of an 8 x 8 simdgroup_matrix are: row `row`, columns 2 * pair and
// 2 * pair + 1. The four lanes of a row differ in the bits 8 and 1.
struct FragmentLane {
  int row;
  int pair;
};
METAL_FUNC FragmentLane fragment_lane(uint lane) {
  return {int((lane >> 4) & 1u) * 4 + int((lane >> 1) & 3u), int((lane >> 3) & 1u) * 2 + int(lane & 1u)};
}

// Transposes 4 x 4 words over the four lanes that differ in the bits HIGH and LOW. Lane c of them, which is
// 2 * (HIGH set) + (LOW set), gets word c of lane i as word i.
template <ushort HIGH, ushort LOW>
METAL_FUNC uint4 transpose_lanes(uint4 q, uint lane) {
  const bool high = (lane & HIGH) != 0u;
  const bool low = (lane & LOW) != 0u;
  const uint2 kept = high ? q.zw : q.xy;
  const uint2 given = high ? q.xy : q.zw;
  const uint2 got = uint2(simd_shuffle_xor(given.x, HIGH), simd_shuffle_xor(given.y, HIGH));
  const uint2 first = high ? got : kept;   // of the lanes without HIGH
  const uint2 second = high ? kept : got;  // of those with it
  const uint first_kept = low ? first.y : first.x;
  const uint second_kept = low ? second.y : second.x;
  const uint first_got = simd_shuffle_xor(low ? first.x : first.y, LOW);
  const uint second_got = simd_shuffle_xor(low ? second.x : second.y, LOW);
  return low ? uint4(first_got, first_kept, second_got, second_kept)
             : uint4(first_kept, first_got, second_kept, second_got);
}

// Four words are 8 pieces of 16 bits: word i of the result is pieces i and 4 + i.
METAL_FUNC uint4 deal_halves(uint4 q) {
  return uint4((q.x & 0xffffu) | (q.z << 16), (q.x >> 16) | (q.z & 0xffff0000u),
               (q.y & 0xffffu) | (q.w << 16), (q.y >> 16) | (q.w & 0xffff0000u));
}

// Four words are 16 bytes: word i of the result is bytes i, 4 + i, 8 + i and 12 + i.
METAL_FUNC uint4 deal_bytes(uint4 q) {
  const uint4 t = uint4((q.x & 0xffffu) | (q.z << 16), (q.y & 0xffffu) | (q.w << 16),
                        (q.x >> 16) | (q.z & 0xffff0000u), (q.y >> 16) | (q.w & 0xffff0000u));
  constexpr uint even = 0x00ff00ffu;
  return uint4((t.x & even) | ((t.y & even) << 8), ((t.x >> 8) & even) | (t.y & ~even),
               (t.z & even) | ((t.w & even) << 8), ((t.z >> 8) & even) | (t.w & ~even));
}
