#pragma once

#include "common/primitive.h"

namespace ghost {

// y = x W^T (transpose) or x W on a Metal stream, for row-contiguous operands, a float32 codebook, and y of
// the dtype of x with its memory allocated. Products are exact and sums float32.
void multiply_codes_metal(const mx::Stream& stream, const mx::array& x, const mx::array& codes,
                          const mx::array& codebook, bool transpose, mx::array& y);

// Codes of the nearest levels of w, both float32 and row-contiguous; the memory of codes is allocated.
void assign_metal(const mx::Stream& stream, const mx::array& w, const mx::array& codebook, mx::array& codes);

// y as the sum of its splits, partial (splits, ...) float32, in their order.
void sum_splits_metal(const mx::Stream& stream, const mx::array& partial, mx::array& y);

// Threadgroups that keep a large GPU busy: with fewer, what is summed is split.
constexpr int kBusyThreadgroups = 256;

}  // namespace ghost
