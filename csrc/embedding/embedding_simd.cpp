#include "common/simd_loop.h"
#include "embedding/embedding_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

constexpr int64_t kBlock = 64;  // rows summed on their own first, which keeps long sums accurate

// One block of V vectors of columns stays in registers over all rows.
template <int V, class T, class IO>
GHOST_INLINE void sum_columns(const T* dy, const int32_t* rows, int64_t n, int64_t dim, int64_t d, T* total,
                              IO io) {
  F32 sums[V];
  for (int v = 0; v < V; ++v) sums[v] = splat(0.0f);
  for (int64_t i0 = 0; i0 < n; i0 += kBlock) {
    F32 block[V];
    for (int v = 0; v < V; ++v) block[v] = splat(0.0f);
    for (int64_t i = i0; i < min_of(n, i0 + kBlock); ++i) {
      const T* row = dy + rows[i] * dim + d;
      for (int v = 0; v < V; ++v) block[v] = block[v] + io.get(row + v * kWidth);
    }
    for (int v = 0; v < V; ++v) sums[v] = sums[v] + block[v];
  }
  for (int v = 0; v < V; ++v) io.put(total + d + v * kWidth, sums[v]);
}

template <class T>
void sum_rows(const T* dy, const int32_t* rows, int64_t n, int64_t dim, T* total) {
  int64_t d = 0;
  for (; d + 8 * kWidth <= dim; d += 8 * kWidth) sum_columns<8>(dy, rows, n, dim, d, total, Full{});
  for (; d + kWidth <= dim; d += kWidth) sum_columns<1>(dy, rows, n, dim, d, total, Full{});
  if (d < dim) sum_columns<1>(dy, rows, n, dim, d, total, Tail{static_cast<int>(dim - d)});
}

template <class T>
constexpr EmbeddingKernels<T> kernels{sum_rows<T>};

}  // namespace

extern const EmbeddingTable embedding_table{kernels<float>, kernels<float16>, kernels<bfloat16>};

}  // namespace ghost::GHOST_ISA
