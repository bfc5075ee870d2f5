#pragma once

#include <metal_stdlib>

using namespace metal;

// Consecutive rows [begin, end) of one sequence of a flat (total, ...) operand. Boundaries may start late or
// end early: the rows before the first sequence are sequence -1, those after the last are sequence `batch`.
// Boundaries out of order or out of range are clamped, each to at least the one before it and all into the
// operand, so that malformed values never lead outside.
struct SequenceRows {
  int sequence;
  int begin;
  int end;
};

METAL_FUNC bool is_gap(SequenceRows rows, int batch) { return rows.sequence < 0 || rows.sequence >= batch; }

// The sequence that row `row` < total belongs to. cu_seqlens (batch + 1,). All 32 lanes search together.
METAL_FUNC SequenceRows sequence_of_row(const device int* cu_seqlens, int batch, int total, int row,
                                        uint lane) {
  int begin = 0;
  for (int first = 0; first <= batch; first += 32) {
    const int i = first + int(lane);
    const int bound = i <= batch ? cu_seqlens[i] : 0;
    // A clamped boundary is the largest so far, so the first above `row` ends the row's sequence.
    const int end = simd_min(i <= batch && bound > row ? i : batch + 1);
    begin = max(begin, simd_max(i < end ? bound : 0));
    if (end <= batch) return SequenceRows{end - 1, begin, min(cu_seqlens[end], total)};
  }
  return SequenceRows{batch, begin, total};
}

// The rows that follow; what comes after the last sequence reaches to the end of the operand.
METAL_FUNC SequenceRows next_sequence(SequenceRows rows, const device int* cu_seqlens, int batch, int total) {
  const int sequence = rows.sequence + 1;
  const int end = sequence < batch ? clamp(cu_seqlens[sequence + 1], rows.end, total) : total;
  return SequenceRows{sequence, rows.end, end};
}

// The clamped boundary `boundary` <= batch. All 32 lanes search together.
METAL_FUNC int running_boundary(const device int* cu_seqlens, int total, int boundary, uint lane) {
  int largest = 0;
  for (int first = 0; first <= boundary; first += 32) {
    const int i = first + int(lane);
    largest = max(largest, simd_max(i <= boundary ? cu_seqlens[i] : 0));
  }
  return min(largest, total);
}

// The rows of sequence `sequence` < batch. All 32 lanes search together.
METAL_FUNC SequenceRows rows_of_sequence(const device int* cu_seqlens, int total, int sequence, uint lane) {
  const int begin = running_boundary(cu_seqlens, total, sequence, lane);
  return SequenceRows{sequence, begin, clamp(cu_seqlens[sequence + 1], begin, total)};
}
