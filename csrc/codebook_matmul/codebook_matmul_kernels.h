#pragma once

#include <cstdint>

#include "common/coded_matrix.h"
#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// Activations as a dot kernel takes them. A block is as many codes as fit in a vector of words (lane i holds
// word i); its activations are stored in the order in which shifting that vector brings up their codes. Rows
// are padded with zeros to whole blocks.
struct PreparedRows {
  const void* data;     // float, bfloat16 or int8
  int64_t stride;       // elements between rows
  int64_t count;        // rows
  const float* steps;   // int8: value of one step, per row
  const int32_t* sums;  // int8: sum of a row's integers
};

// y[m * ldy + n] = sum_k x[m, k] W[n, k] for rows n0 <= n < n1.
using CodebookDot = void (*)(const CodedMatrix& w, const PreparedRows& x, int64_t n0, int64_t n1, float* y,
                             int64_t ldy);

struct CodebookDotKernels {
  int block;  // codes in a vector of words
  void (*prepare)(const float* x, int64_t columns, float* prepared);
  CodebookDot dot;
  // y[m * ldy + k] = sum_n x[m * w.rows + n] W[n, k] for the columns k of one block and m < count.
  void (*accumulate)(const CodedMatrix& w, const float* x, int count, int64_t block, float* y, int64_t ldy);
};
GHOST_DECLARE_KERNELS(CodebookDotKernels, codebook_dot_table, codebook_dot_kernels)

// Reduced precision, for codebooks that whole rows share; null where there are no instructions for it.
struct CodebookReducedKernels {
  void (*prepare_bfloat16)(const float* x, int64_t columns, uint16_t* prepared);
  CodebookDot dot_bfloat16;
  // Rounds to multiples of `step` and returns the sum of the integers.
  int32_t (*prepare_int8)(const float* x, float step, int64_t columns, int8_t* prepared);
  CodebookDot dot_int8;
};
GHOST_DECLARE_VNNI_KERNELS(CodebookReducedKernels, codebook_reduced_table, codebook_reduced_kernels)

// Reduced precision for many rows of x: panels of decoded weights, multiplied by broadcasts of x. Null where
// there are no instructions for it.
constexpr int kCodebookPanelRows = 32;  // weight rows of a panel
using CodebookPanelMicro = void (*)(int64_t steps, const void* x, int64_t stride, const void* panel, void* c,
                                    bool accumulate);
struct CodebookPanelMode {
  // Decodes words [word0, word1) of `rows` rows from row0 on.
  void (*pack)(const CodedMatrix& w, int64_t row0, int rows, int64_t word0, int64_t word1, void* panel);
  // c (rows, kCodebookPanelRows) = or += x panel^T. Rows of prepared x are `stride` bytes apart.
  void (*multiply)(int64_t words, const void* x, int64_t stride, int64_t rows, const void* panel, void* c,
                   bool accumulate);
  // int8: the value of one step of every weight row from row0 on, zero for rows missing in the panel.
  void (*scales)(const CodedMatrix& w, int64_t row0, int rows, float* scales);
  // y[m * ldy + j] for `columns` weight rows of these scales. Only count, steps and sums of x are read.
  void (*finish)(const float* scales, int columns, const void* c, const PreparedRows& x, float* y,
                 int64_t ldy);
};
struct CodebookPanelKernels {
  void (*prepare_bfloat16)(const float* x, int64_t columns, uint16_t* prepared);
  // As that of CodebookReducedKernels.
  int32_t (*prepare_int8)(const float* x, float step, int64_t columns, int8_t* prepared);
  // The largest magnitude of n values as the bits of a float, which are ordered like it; what is not finite
  // is larger.
  int32_t (*largest_bits)(const float* x, int64_t n);
  CodebookPanelMode bfloat16;
  CodebookPanelMode int8;
};
GHOST_DECLARE_VNNI_KERNELS(CodebookPanelKernels, codebook_panel_table, codebook_panel_kernels)

struct CodebookKernels {
  // Adds values[k] to sums[code of k] for `words` words of codes.
  void (*bucket_sum)(const uint32_t* codes, const float* values, int64_t words, float* sums);
  // Codes of the nearest of four levels: 16 values a word.
  void (*assign)(const float* values, const float* levels, int64_t words, uint32_t* codes);
};
GHOST_DECLARE_KERNELS(CodebookKernels, codebook_table, codebook_kernels)

template <class T>
struct CodebookDecodeKernels {
  // Levels of the codes of `groups` groups of `words` words each, with a codebook a group.
  void (*dequantize)(const uint32_t* codes, const float* codebooks, int64_t groups, int64_t words, T* values);
};
using CodebookDecodeTable = PerDtype<CodebookDecodeKernels>;
GHOST_DECLARE_KERNELS(CodebookDecodeTable, codebook_decode_table, codebook_decode_kernels)

}  // namespace ghost
