#include <algorithm>
#include <optional>

#include "codebook_matmul/codebook_matmul.h"
#include "codebook_matmul/codebook_matmul_metal.h"
#include "codebook_matmul/params.h"
#include "common/metal_alignment.h"
#include "common/metal_kernel.h"

namespace ghost {
namespace {

using Layout = CodebookMatmulLayout;

constexpr const char* kGradLibrary = "codebook_matmul_grad";
constexpr const char* kAssignLibrary = "codebook_matmul_assign";

constexpr int kGradStage = 32;  // a multiple of the rows that one stage of any dtype takes

// Rows that are summed are not split into less than what makes the partial results small beside the operands.
constexpr int kLeastSplitRows = 256;
constexpr int kLeastSplitRowsOfWeight = 512;

// A weight as its codes and its codebook describe it.
struct Coding {
  int N;
  int K;
  int groups;   // of a row
  bool shared;  // one codebook for all rows
};

Coding coding_of(const mx::array& codes, const mx::array& codebook) {
  const bool shared = codebook.ndim() == 1;
  return {codes.shape(0), 16 * codes.shape(1), shared ? 1 : codebook.shape(1), shared};
}

// Lanes that go over neighbouring groups: together they write 64 bytes.
int lanes_of_groups(int groups) { return groups > 2 ? 4 : groups; }

// left (..., N)^T right (..., K), the gradient of the decoded weight: itself, the codebook's, or both from
// one pass.
void weight_gradients(const mx::Stream& s, const mx::array& left, const mx::array& right,
                      const mx::array& codes, const Coding& w, mx::array* dweight, mx::array* dcodebook) {
  const int rows = row_count(left);
  const Extent tiles{ceil_div(w.K, Layout::tile), ceil_div(w.N, Layout::tile)};
  const int count = std::max(tiles.x * tiles.y, 1);
  const int wanted =
      std::min(kBusyThreadgroups / count, rows / (dweight ? kLeastSplitRowsOfWeight : kLeastSplitRows));
  const int split_rows = kGradStage * std::max(ceil_div(ceil_div(rows, std::max(wanted, 1)), kGradStage), 1);
  const int splits = std::max(ceil_div(rows, split_rows), 1);
  const int blocks = ceil_div(w.K, Layout::grad_block);

  const int sums = !dcodebook ? 0 : w.shared ? tiles.x * tiles.y : blocks * w.N;
  mx::array partial = temporary(s, {std::max(splits * sums, 1), 4}, mx::float32);
  std::optional<mx::array> parts;  // of dweight, by split
  if (dweight && splits > 1) parts = temporary(s, {splits, w.N, w.K}, mx::float32);
  const CodebookGradParams params{rows,
                                  w.N,
                                  w.K,
                                  split_rows,
                                  blocks,
                                  reads_vectors(left, w.N),
                                  reads_vectors(right, w.K),
                                  dweight ? 1 : 0,
                                  dcodebook ? 1 : 0,
                                  dcodebook && w.shared ? 1 : 0};
  MetalKernel tile(s, kGradLibrary, "codebook_matmul_grad_tile_" + metal_dtype(left.dtype()));
  tile.input(left).input(right);
  dcodebook ? tile.input(codes) : tile.absent();
  dweight ? tile.output(parts ? *parts : *dweight) : tile.absent_output();
  dcodebook ? tile.output(partial) : tile.absent_output();
  tile.params(params).run({tiles.x, tiles.y, splits}, {Layout::tile_threads});
  if (parts) sum_splits_metal(s, *parts, *dweight);
  if (!dcodebook) return;

  if (w.shared) {
    MetalKernel(s, kGradLibrary, "codebook_matmul_grad_all")
        .input(partial)
        .output(*dcodebook)
        .params(CodebookGradAllParams{splits * sums})
        .run({1}, {Layout::tile_threads});
    return;
  }
  const int lanes = lanes_of_groups(w.groups);
  MetalKernel(s, kGradLibrary, "codebook_matmul_grad_groups")
      .input(partial)
      .output(*dcodebook)
      .params(CodebookGradGroupsParams{w.N, blocks, w.groups, blocks / w.groups, splits, lanes})
      .run({ceil_div(w.N, Layout::tile_threads / lanes), ceil_div(w.groups, lanes)}, {Layout::tile_threads});
}

CodebookWordsParams words_params(const mx::array& codes, const mx::array& codebook, const mx::array& weight) {
  const int words = static_cast<int>(codes.size());
  const int group_words = codebook.ndim() == 1 ? words : codes.shape(1) / codebook.shape(1);
  return {words, group_words, begins_aligned(codebook) ? 1 : 0, begins_aligned(weight) ? 1 : 0};
}

Extent groups_of_words(int words) { return {ceil_div(words, Layout::word_groups * kSimdWidth)}; }

}  // namespace

void CodebookGrad::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  weight_gradients(stream(), inputs[0], inputs[1], inputs[2], coding_of(inputs[2], inputs[3]), nullptr,
                   &outputs[0]);
}

void CodebookMatmulLatentGrad::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const auto& [x, codes, codebook, dy] = std::tie(inputs[0], inputs[1], inputs[2], inputs[3]);
  auto next = outputs.begin();
  if (wanted_.x) multiply_codes_metal(stream(), dy, codes, codebook, false, *next++);
  mx::array* dweight = wanted_.weight ? &*next++ : nullptr;
  mx::array* dcodebook = wanted_.codebook ? &*next : nullptr;
  if (dweight || dcodebook) {
    weight_gradients(stream(), dy, x, codes, coding_of(codes, codebook), dweight, dcodebook);
  }
}

void assign_metal(const mx::Stream& stream, const mx::array& w, const mx::array& codebook, mx::array& codes) {
  const CodebookWordsParams params = words_params(codes, codebook, w);
  MetalKernel(stream, kAssignLibrary, "codebook_assign_float32")
      .input(w)
      .input(codebook)
      .output(codes)
      .params(params)
      .run(groups_of_words(params.words), {Layout::word_groups * 32});
}

void CodebookAssign::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  assign_metal(stream(), inputs[0], inputs[1], outputs[0]);
}

void CodebookDequantize::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const CodebookWordsParams params = words_params(inputs[0], inputs[1], outputs[0]);
  MetalKernel(stream(), kAssignLibrary, "codebook_dequantize_" + metal_dtype(dtype_))
      .input(inputs[0])
      .input(inputs[1])
      .output(outputs[0])
      .params(params)
      .run(groups_of_words(params.words), {Layout::word_groups * 32});
}

void BucketSum::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const auto& dw = inputs[0];
  const auto& codes = inputs[1];
  const int row_words = codes.shape(1);
  const BucketSumParams params{codes.shape(0), row_words, row_words / groups_, begins_aligned(dw) ? 1 : 0};
  MetalKernel(stream(), kAssignLibrary, groups_ == 1 ? "bucket_sum_row_float32" : "bucket_sum_group_float32")
      .input(dw)
      .input(codes)
      .output(outputs[0])
      .params(params)
      .run({ceil_div(params.N, Layout::word_groups)}, {Layout::word_groups * 32});
}

}  // namespace ghost
