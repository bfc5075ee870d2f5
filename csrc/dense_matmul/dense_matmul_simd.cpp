#include "common/simd.h"
#include "dense_matmul/dense_matmul_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

template <class T, int R, int M>
void dot_tile(const float* x, const T* weight, int64_t columns, float* y, int64_t ldy) {
  F32 sums[R][M];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int m = 0; m < M; ++m) sums[r][m] = splat(0.0f);
  }
  int64_t k = 0;
#pragma GCC unroll 1
  for (; k + kWidth <= columns; k += kWidth) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const F32 w = load(weight + r * columns + k);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) sums[r][m] = fma(w, load(x + m * columns + k), sums[r][m]);
    }
  }
  const int left = static_cast<int>(columns - k);
#pragma GCC unroll 4
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      F32 total = sums[r][m];
      if (left > 0)
        total = fma(load_n(weight + r * columns + k, left), load_n(x + m * columns + k, left), total);
      y[m * ldy + r] = sum(total);
    }
  }
}

template <class T, int M>
void dot_rows(const float* x, const T* weight, int64_t columns, int64_t n0, int64_t n1, float* y,
              int64_t ldy) {
  int64_t n = n0;
  for (; n + 4 <= n1; n += 4) dot_tile<T, 4, M>(x, weight + n * columns, columns, y + n, ldy);
  for (; n < n1; ++n) dot_tile<T, 1, M>(x, weight + n * columns, columns, y + n, ldy);
}

template <class T>
void dot(const float* x, int count, const T* weight, int64_t columns, int64_t n0, int64_t n1, float* y,
         int64_t ldy) {
  int m = 0;
  for (; m + 2 <= count; m += 2) dot_rows<T, 2>(x + m * columns, weight, columns, n0, n1, y + m * ldy, ldy);
  if (m < count) dot_rows<T, 1>(x + m * columns, weight, columns, n0, n1, y + m * ldy, ldy);
}

// y[m * columns + k] = or += sum_d x[m * ldx + d] weight[d * columns + k].
template <class T, int M, int D>
void combine(const float* x, int64_t ldx, const T* weight, int64_t columns, int64_t k0, int64_t k1, float* y,
             bool add) {
  F32 factors[M][D];
#pragma GCC unroll 2
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) factors[m][d] = splat(x[m * ldx + d]);
  }
  const auto at = [&](int64_t k, auto&& read, auto&& write) {
    F32 w[D];
#pragma GCC unroll 4
    for (int d = 0; d < D; ++d) w[d] = read(weight + d * columns + k);
#pragma GCC unroll 2
    for (int m = 0; m < M; ++m) {
      float* to = y + m * columns + k;
      F32 sum = add ? fma(factors[m][0], w[0], read(to)) : factors[m][0] * w[0];
#pragma GCC unroll 4
      for (int d = 1; d < D; ++d) sum = fma(factors[m][d], w[d], sum);
      write(to, sum);
    }
  };
  int64_t k = k0;
#pragma GCC unroll 1
  for (; k + kWidth <= k1; k += kWidth) {
    at(k, [](const auto* p) { return load(p); }, [](float* p, F32 v) { store(p, v); });
  }
  if (const int left = static_cast<int>(k1 - k); left > 0) {
    at(k, [=](const auto* p) { return load_n(p, left); }, [=](float* p, F32 v) { store_n(p, v, left); });
  }
}

// Four rows of the weight at a time, in the order of memory.
template <class T, int M>
void combine_rows(const float* x, int64_t depth, const T* weight, int64_t columns, int64_t k0, int64_t k1,
                  float* y) {
  int64_t d = 0;
  for (; d + 4 <= depth; d += 4)
    combine<T, M, 4>(x + d, depth, weight + d * columns, columns, k0, k1, y, d > 0);
  for (; d < depth; ++d) combine<T, M, 1>(x + d, depth, weight + d * columns, columns, k0, k1, y, d > 0);
}

template <class T>
void sum_rows(const float* x, int64_t count, int64_t depth, const T* weight, int64_t columns, int64_t k0,
              int64_t k1, float* y) {
  int64_t m = 0;
  for (; m + 2 <= count; m += 2)
    combine_rows<T, 2>(x + m * depth, depth, weight, columns, k0, k1, y + m * columns);
  if (m < count) combine_rows<T, 1>(x + m * depth, depth, weight, columns, k0, k1, y + m * columns);
}

}  // namespace

extern const DenseDotTable dense_dot_table{
    {dot<float>, sum_rows<float>}, {dot<float16>, sum_rows<float16>}, {dot<bfloat16>, sum_rows<bfloat16>}};

}  // namespace ghost::GHOST_ISA
