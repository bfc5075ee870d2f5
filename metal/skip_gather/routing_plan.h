#pragma once

#include "common/elements.h"
#include "common/ragged.h"
#include "skip_gather/params.h"

constant constexpr const int kBlockRows = SkipGatherLayout::block_rows;
constant constexpr const int kLaneRows = kBlockRows / 32;
constant constexpr const int kPadEntries = SkipGatherLayout::pad_entries;

// Bit i tells whether row first + i of the mask is set, for the kLaneRows rows from `first` that are before
// `stop`.
METAL_FUNC uint mask_bits(const device uchar* mask, int first, int stop, bool vector) {
  const int rows = clamp(stop - first, 0, kLaneRows);
  uint bits = 0u;
  if (vector && rows == kLaneRows) {
    const uint4 bytes = *(const device uint4*)(mask + first);
    for (int i = 0; i < kLaneRows; ++i) {
      bits |= (((bytes[i / 4] >> (8 * (i & 3))) & 0xffu) != 0u ? 1u : 0u) << i;
    }
    return bits;
  }
  for (int i = 0; i < kLaneRows; ++i) {
    if (i < rows) bits |= (mask[first + i] != 0 ? 1u : 0u) << i;
  }
  return bits;
}

// How many rows before `row` <= total are set, given those before each block. All 32 lanes count together.
METAL_FUNC int set_before(const device uchar* mask, const device int* before, int row,
                          constant RoutingPlanParams& p, uint lane) {
  const int block = row / kBlockRows;
  const uint bits = mask_bits(mask, block * kBlockRows + int(lane) * kLaneRows, row, p.vector);
  return before[block] + simd_sum(int(popcount(bits)));
}

// counts[block] = rows set in it. One SIMD-group a block.
[[kernel]] void routing_plan_count(const device uchar* mask [[buffer(0)]], device int* counts [[buffer(1)]],
                                   constant RoutingPlanParams& p [[buffer(2)]],
                                   uint3 group [[threadgroup_position_in_grid]],
                                   uint simdgroup [[simdgroup_index_in_threadgroup]],
                                   uint lane [[thread_index_in_simdgroup]]) {
  const int block = int(group.x) * SkipGatherLayout::groups + int(simdgroup);
  if (block >= p.blocks) return;
  const uint bits = mask_bits(mask, block * kBlockRows + int(lane) * kLaneRows, p.total, p.vector);
  const int set = simd_sum(int(popcount(bits)));
  if (lane == 0) counts[block] = set;
}

// before[block] = rows set before each block, and before[blocks] all of them; the range. One threadgroup, so
// that nothing waits for another one.
[[kernel]] void routing_plan_scan(const device uchar* mask [[buffer(0)]],
                                  const device int* cu_seqlens [[buffer(1)]],
                                  const device int* counts [[buffer(2)]], device int* before [[buffer(3)]],
                                  device RoutedRange* range [[buffer(4)]], device int* count [[buffer(5)]],
                                  constant RoutingPlanParams& p [[buffer(6)]],
                                  uint simdgroup [[simdgroup_index_in_threadgroup]],
                                  uint lane [[thread_index_in_simdgroup]]) {
  threadgroup int sums[SkipGatherLayout::scan_groups];
  constexpr int threads = 32 * SkipGatherLayout::scan_groups;
  int carry = 0;
  for (int start = 0; start <= p.blocks; start += threads) {
    const int block = start + int(simdgroup) * 32 + int(lane);
    const int set = block < p.blocks ? counts[block] : 0;
    const int inside = simd_prefix_exclusive_sum(set);
    if (lane == 31) sums[simdgroup] = inside + set;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    int earlier = carry;
    for (int g = 0; g < SkipGatherLayout::scan_groups; ++g) {
      earlier += g < int(simdgroup) ? sums[g] : 0;
      carry += sums[g];
    }
    if (block <= p.blocks) before[block] = earlier + inside;
    threadgroup_barrier(mem_flags::mem_threadgroup | mem_flags::mem_device);
  }
  if (simdgroup != 0) return;
  RoutedRange out{0, p.total, 0, carry};
  if (p.ragged) {
    // The largest boundary ends the last sequence, whatever order they are in.
    int last = 0;
    for (int start = 0; start <= p.batch; start += 32) {
      const int b = start + int(lane);
      last = max(last, simd_max(b <= p.batch ? cu_seqlens[b] : 0));
    }
    out.first = clamp(cu_seqlens[0], 0, p.total);
    out.last = min(last, p.total);
    out.before = set_before(mask, before, out.first, p, lane);
    out.count = set_before(mask, before, out.last, p, lane) - out.before;
  }
  if (lane == 0) {
    *range = out;
    *count = out.count;
  }
}

// Writes the rows set in a block, in order. They are listed in threadgroup memory first, so that neighbouring
// lanes store neighbouring entries; after the first few, in steps that begin at multiples of 64 bytes.
METAL_FUNC void write_block(const device uchar* mask, int before, const device RoutedRange* range,
                            device int* indices, int block, constant RoutingPlanParams& p,
                            threadgroup ushort* list, uint lane) {
  const int first = int(lane) * kLaneRows;
  uint bits = mask_bits(mask, block * kBlockRows + first, min(p.total, range->last), p.vector);
  const int early = clamp(range->first - block * kBlockRows - first, 0, kLaneRows);
  bits &= ~((1u << early) - 1u);
  const int set = int(popcount(bits));
  int at = simd_prefix_exclusive_sum(set);
  const int listed = simd_sum(set);
  for (uint left = bits; left != 0u; left &= left - 1u) {
    list[at] = ushort(first + int(ctz(left)));
    ++at;
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  // Rows before the range are counted in `before`, which stops short of it in the block it begins in.
  const int entry = max(before - range->before, 0);
  const int kept = min(listed, p.capacity - entry);
  const int head = min(kept, (16 - (entry & 15)) & 15);
  device int* to = indices + entry;
  if (int(lane) < head) to[lane] = block * kBlockRows + int(list[lane]);
  for (int i = head + int(lane); i < kept; i += 32) to[i] = block * kBlockRows + int(list[i]);
}

// The plan. Each SIMD-group does one of: a block of rows, a boundary, a part of the entries left over.
[[kernel]] void routing_plan_write(
    const device uchar* mask [[buffer(0)]], const device int* cu_seqlens [[buffer(1)]],
    const device int* before [[buffer(2)]], const device RoutedRange* range [[buffer(3)]],
    device int* indices [[buffer(4)]], device int* boundaries [[buffer(5)]],
    constant RoutingPlanParams& p [[buffer(6)]], uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  threadgroup ushort lists[SkipGatherLayout::groups * kBlockRows];
  const int unit = int(group.x) * SkipGatherLayout::groups + int(simdgroup);
  if (unit < p.blocks) {
    write_block(mask, before[unit], range, indices, unit, p, lists + simdgroup * kBlockRows, lane);
    return;
  }
  const int boundary = unit - p.blocks;
  if (boundary <= p.batch) {
    int row = boundary * p.seqlen;
    if (p.ragged) row = running_boundary(cu_seqlens, p.total, boundary, lane);
    const int entries = set_before(mask, before, row, p, lane) - range->before;
    if (lane == 0) boundaries[boundary] = min(entries, p.capacity);
    return;
  }
  const int first = (boundary - p.batch - 1) * kPadEntries;
  if (first >= p.capacity) return;
  for (int i = max(first, range->count) + int(lane); i < min(first + kPadEntries, p.capacity); i += 32) {
    indices[i] = p.total;
  }
}
