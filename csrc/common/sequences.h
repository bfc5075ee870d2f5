#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace ghost {

// Rows [begin, end) of one sequence in a flat (total, dim) operand.
struct Span {
  int64_t begin;
  int64_t end;
  int64_t length() const { return end - begin; }
};

// `batch` sequences of `seqlen` rows each.
inline std::vector<Span> equal_spans(int64_t batch, int64_t seqlen) {
  std::vector<Span> spans(static_cast<size_t>(batch));
  for (int64_t b = 0; b < batch; ++b) spans[static_cast<size_t>(b)] = {b * seqlen, (b + 1) * seqlen};
  return spans;
}

// Ragged sequences from boundaries. Boundaries out of order or out of range are clamped, so that malformed
// values can give wrong results but never touch memory outside the operands.
inline std::vector<Span> ragged_spans(const int32_t* cu_seqlens, int64_t batch, int64_t total) {
  std::vector<Span> spans(static_cast<size_t>(batch));
  int64_t begin = std::clamp<int64_t>(cu_seqlens[0], 0, total);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t end = std::clamp<int64_t>(cu_seqlens[b + 1], begin, total);
    spans[static_cast<size_t>(b)] = {begin, end};
    begin = end;
  }
  return spans;
}

// Zeroes the rows of `width` elements that belong to no sequence, as boundaries may start late or end early.
template <class T>
void zero_gaps(T* rows, const std::vector<Span>& spans, int64_t total, int64_t width) {
  int64_t row = 0;
  for (const Span& span : spans) {
    std::fill(rows + row * width, rows + span.begin * width, T{});
    row = span.end;
  }
  std::fill(rows + row * width, rows + total * width, T{});
}

}  // namespace ghost
