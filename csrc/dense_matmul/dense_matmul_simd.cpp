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

}  // namespace

extern const DenseDotTable dense_dot_table{{dot<float>}, {dot<float16>}, {dot<bfloat16>}};

}  // namespace ghost::GHOST_ISA
