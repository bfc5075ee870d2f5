#include "codebook_matmul/codebook_matmul_metal.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "codebook_matmul/codebook_matmul.h"
#include "codebook_matmul/params.h"
#include "common/metal_alignment.h"
#include "common/metal_kernel.h"

namespace ghost {
namespace {

using Layout = CodebookMatmulLayout;

constexpr const char* kGemvLibrary = "codebook_matmul_gemv";
constexpr const char* kMmaLibrary = "codebook_matmul_mma";
constexpr const char* kTiledLibrary = "codebook_matmul_tiled";

// x W with few rows of x: rows of W that make the partial sums of a split small beside its codes. All
// SIMD-groups of a threadgroup take 16 rows at a time.
constexpr int kLeastSplitRows = 128;
constexpr int kSplitStep = 16;

// One product: y (M, N) = x (M, K) W^T or y (M, K) = x (M, N) W.
struct Product {
  mx::Stream stream;
  const mx::array& x;
  const mx::array& codes;
  const mx::array& codebook;
  bool transpose;
  CodebookMatmulParams params;

  bool by_group() const { return codebook.ndim() == 3 && codebook.shape(1) > 1; }
};

int log2_of(int n) {
  int shift = 0;
  while ((1 << (shift + 1)) <= n) ++shift;
  return shift;
}

CodebookMatmulParams params_of(const mx::array& x, const mx::array& codes, const mx::array& codebook) {
  const int columns = 16 * codes.shape(1);
  const int groups = codebook.ndim() == 1 ? 1 : codebook.shape(1);
  const int stride = codebook.ndim() == 1 ? 0 : 4 * groups;
  return {row_count(x),  codes.shape(0), columns, stride, log2_of(std::max(columns / groups, 1)),
          codes.shape(0)};
}

// GHOST_NATIVE_PAIR_TABLE=1 decodes by a table across the lanes where one codebook serves a whole row: the
// alternative to selects that only a clock on a Mac can judge.
bool wants_pair_table(const Product& p) {
  const char* value = std::getenv("GHOST_NATIVE_PAIR_TABLE");
  return value != nullptr && std::string(value) == "1" && !p.by_group();
}

// A kernel with its inputs bound and its function constants set, in the order of decode.h.
MetalKernel kernel_of(const Product& p, const char* library, const std::string& variant,
                      bool pair_table = false) {
  const auto& w = p.params;
  const std::string name = std::string("codebook_matmul_") + (p.transpose ? "t_" : "n_") + variant + "_" +
                           metal_dtype(p.x.dtype());
  MetalKernel kernel(p.stream, library, name,
                     {{0, p.by_group()},
                      {1, begins_aligned(p.codebook)},
                      {2, w.K > 0 && reads_vectors(p.codes, w.K / 16)},
                      {3, reads_vectors(p.x, p.transpose ? w.K : w.N)},
                      {4, pair_table}});
  kernel.input(p.x).input(p.codes).input(p.codebook);
  return kernel;
}

// The rows of x that a GEMV takes at a time: 1, 2 or 4.
int gemv_rows(int rows) { return rows <= 2 ? rows : 4; }

void run_dot_gemv(const Product& p, mx::array& y) {
  const int rows = gemv_rows(p.params.M);
  kernel_of(p, kGemvLibrary, "gemv_m" + std::to_string(rows), wants_pair_table(p))
      .output(y)
      .params(p.params)
      .run({ceil_div(p.params.N, Layout::gemv_rows * Layout::gemv_groups), ceil_div(p.params.M, rows)},
           {kSimdWidth, Layout::gemv_groups});
}

void run_mma(const Product& p, mx::array& y) {
  const int blocks = p.params.M <= 8 ? 1 : p.params.M <= 16 ? 2 : 4;  // of eight rows of x
  kernel_of(p, kMmaLibrary, "mma_m" + std::to_string(8 * blocks))
      .output(y)
      .params(p.params)
      .run({ceil_div(p.params.N, Layout::mma_rows), ceil_div(p.params.M, 8 * blocks)},
           {kSimdWidth, 8 / std::max(blocks, 2)});
}

void run_tiled(const Product& p, mx::array& y) {
  kernel_of(p, kTiledLibrary, "tiled")
      .output(y)
      .params(p.params)
      .run(
          {ceil_div(p.transpose ? p.params.N : p.params.K, Layout::tile), ceil_div(p.params.M, Layout::tile)},
          {Layout::tile_threads});
}

void run_sum_gemv(const Product& product, mx::array& y) {
  Product p = product;
  const int M = p.params.M;
  const int N = p.params.N;
  const int K = p.params.K;
  const int rows = gemv_rows(M);
  const Extent groups{ceil_div(K, Layout::gemv_columns), ceil_div(M, rows)};
  const int wanted = std::min(ceil_div(kBusyThreadgroups, groups.x * groups.y), N / kLeastSplitRows);
  p.params.split_rows = kSplitStep * std::max(ceil_div(N, kSplitStep * std::max(wanted, 1)), 1);
  const int splits = std::max(ceil_div(N, p.params.split_rows), 1);
  const Extent grid{groups.x, groups.y, splits};
  const Extent threads{kSimdWidth, Layout::gemv_n_groups};
  MetalKernel kernel = kernel_of(p, kGemvLibrary, "gemv_m" + std::to_string(rows));
  if (splits == 1) {
    kernel.output(y).absent_output().params(p.params).run(grid, threads);
    return;
  }
  mx::array partial = temporary(p.stream, {splits, M, K}, mx::float32);
  kernel.absent_output().output(partial).params(p.params).run(grid, threads);
  sum_splits_metal(p.stream, partial, y);
}

}  // namespace

void sum_splits_metal(const mx::Stream& stream, const mx::array& partial, mx::array& y) {
  const int elements = static_cast<int>(y.size());
  MetalKernel(stream, kGemvLibrary, "codebook_matmul_n_sum_" + metal_dtype(y.dtype()))
      .input(partial)
      .output(y)
      .params(CodebookMatmulSumParams{elements, partial.shape(0)})
      .run({ceil_div(elements, 4 * Layout::sum_threads)}, {Layout::sum_threads});
}

// Which kernel, by operations for each weight: decoding one is 4, a row of x is one more, and eight rows of x
// in a simdgroup_matrix are eight.
//   x W^T   gemv   ceil(M / 4) (4 + 4), or 4 + M up to 4 rows
//           mma    4 + 8 ceil(M / 8) up to 32 rows
//           tiled  ceil(M / 64) (4 + 64), and tiles in threadgroup memory to wait for
//   x W     gemv   ceil(M / 4) (4 + 4), and sums of splits
//           tiled  ceil(M / 64) (4 + 64)
void multiply_codes_metal(const mx::Stream& stream, const mx::array& x, const mx::array& codes,
                          const mx::array& codebook, bool transpose, mx::array& y) {
  if (y.size() == 0) return;
  const Product p{stream, x, codes, codebook, transpose, params_of(x, codes, codebook)};
  const int rows = p.params.M;
  if (transpose) return rows <= 4 ? run_dot_gemv(p, y) : rows <= 32 ? run_mma(p, y) : run_tiled(p, y);
  return rows <= 16 ? run_sum_gemv(p, y) : run_tiled(p, y);
}

// The activation modes say how a CPU may round. A GPU gains nothing by it and computes the exact mode, whose
// results are at least as close.
void CodebookMatmul::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  multiply_codes_metal(stream(), inputs[0], inputs[1], inputs[2], transpose_, outputs[0]);
}

void CodebookMatmulLatent::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  assign_metal(stream(), inputs[1], inputs[2], outputs[1]);
  multiply_codes_metal(stream(), inputs[0], outputs[1], inputs[2], true, outputs[0]);
}

}  // namespace ghost
