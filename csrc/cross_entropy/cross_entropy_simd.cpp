#include "common/simd_loop.h"
#include "cross_entropy/cross_entropy_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

// The classes after the last whole vector, padded with minus infinity: neither a maximum nor a term of the
// sum, where it counts as 1e-38.
template <class T>
GHOST_INLINE F32 load_rest(const T* logits, int64_t whole, int64_t classes) {
  float buffer[kWidth];
  for (int i = 0; i < kWidth; ++i) {
    buffer[i] = whole + i < classes ? load1(logits + whole + i) : -__builtin_inff();
  }
  return load(buffer);
}

template <class T>
void sum_exp(const T* logits, int64_t classes, float* largest, float* total) {
  const int64_t whole = classes / kWidth * kWidth;
  const F32 rest = load_rest(logits, whole, classes);
  F32 high = rest;
  for (int64_t i = 0; i < whole; i += kWidth) high = max(high, load(logits + i));
  *largest = max_lane(high);
  const F32 shift = splat(*largest);
  F32 terms = whole < classes ? exp(rest - shift) : splat(0.0f);
  for (int64_t i = 0; i < whole; i += kWidth) terms = terms + exp(load(logits + i) - shift);
  *total = sum(terms);
}

template <class T>
void softmax(const T* logits, float largest, float logsum, float scale, T* dlogits, int64_t classes) {
  const F32 shift = splat(largest);
  const F32 log_total = splat(logsum);
  const F32 by = splat(scale);
  for_vectors(classes, [&](int64_t i, auto io) {
    io.put(dlogits + i, exp(io.get(logits + i) - shift - log_total) * by);
  });
}

template <class T>
constexpr CrossEntropyKernels<T> kernels{sum_exp<T>, softmax<T>};

}  // namespace

extern const CrossEntropyTable cross_entropy_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
