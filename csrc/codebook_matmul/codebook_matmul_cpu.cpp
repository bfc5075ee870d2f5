#include <algorithm>
#include <vector>

#include "codebook_matmul/codebook_matmul.h"
#include "codebook_matmul/codebook_matmul_kernels.h"
#include "codebook_matmul/codebook_matmul_product.h"
#include "common/dispatch.h"
#include "common/gemm.h"
#include "common/parallel.h"

namespace ghost {
namespace {

int64_t groups_of(const mx::array& codebook) { return codebook.ndim() == 1 ? 1 : codebook.shape(1); }

// With levels other than those of the codebook, if given.
CodedMatrix coded(const mx::array& codes, const mx::array& codebook, const float* levels = nullptr) {
  const int64_t columns = 16 * static_cast<int64_t>(codes.shape(1));
  const int64_t groups = groups_of(codebook);
  return {codes.data<uint32_t>(),
          levels ? levels : codebook.data<float>(),
          codes.shape(0),
          columns,
          codebook.ndim() == 1 ? 0 : 4 * groups,
          std::max<int64_t>(columns / groups, 1)};
}

// A codebook's levels where they differ from its float32 data: those of half precision as float32, and all
// rounded to float16 where asked.
class Levels {
 public:
  explicit Levels(const mx::array& codebook, bool round_to_half = false) {
    const bool half = codebook.dtype() != mx::float32;
    if (!half && !round_to_half) return;
    const auto n = static_cast<int64_t>(codebook.size());
    levels_.resize(codebook.size());
    dispatch_dtype(codebook.dtype(), [&]<class T>() { convert(in_ptr<T>(codebook), levels_.data(), n); });
    if (!round_to_half) return;
    std::vector<float16> rounded(levels_.size());
    convert(levels_.data(), rounded.data(), n);
    convert(rounded.data(), levels_.data(), n);
  }
  const float* data() const { return levels_.empty() ? nullptr : levels_.data(); }

 private:
  std::vector<float> levels_;
};

// Bucket sums of the tiles of a (rows, columns) gradient. Each tile adds to slots of its own; a slot is a
// group, or with one group a row one step of the tile grid.
class BucketSums {
 public:
  explicit BucketSums(const CodedMatrix& w)
      : w_(w),
        grouped_(w.groups() > 1),
        slots_(grouped_ ? w.groups() : (w.columns + kGemmColumnStep - 1) / kGemmColumnStep),
        sums_(static_cast<size_t>(4 * w.rows * slots_), 0.0f) {}

  void add(const GemmTile& tile) {
    const auto& kernels = codebook_kernels();
    const int64_t step = grouped_ ? w_.group_size : tile.columns;
    for (int64_t i = 0; i < tile.rows; ++i) {
      const int64_t row = tile.row0 + i;
      for (int64_t k = 0; k < tile.columns; k += step) {
        const int64_t column = tile.column0 + k;
        const int64_t slot = column / (grouped_ ? w_.group_size : kGemmColumnStep);
        kernels.bucket_sum(w_.codes + row * w_.words() + column / 16, tile.c + i * tile.ldc + k, step / 16,
                           sums_.data() + 4 * (row * slots_ + slot));
      }
    }
  }

  // Into the shape of the codebook, in a fixed order.
  void finish(mx::array& out) const {
    float* to = out.data<float>();
    const bool shared = w_.row_stride == 0;
    const int64_t outputs = shared ? 1 : w_.rows * w_.groups();
    const int64_t summands = w_.rows * slots_ / std::max<int64_t>(outputs, 1);
    for (int64_t o = 0; o < outputs; ++o) {
      double total[4] = {};
      for (int64_t i = o * summands; i < (o + 1) * summands; ++i) {
        for (int64_t c = 0; c < 4; ++c) total[c] += sums_[static_cast<size_t>(4 * i + c)];
      }
      for (int64_t c = 0; c < 4; ++c) to[4 * o + c] = static_cast<float>(total[c]);
    }
  }

 private:
  const CodedMatrix& w_;
  bool grouped_;
  int64_t slots_;
  std::vector<float> sums_;
};

// left (M, N)^T right (M, K): the gradient of the decoded weight, kept in dweight unless that is null, and
// the codebook's unless that is null.
void weight_gradients(const mx::array& left, const mx::array& right, const CodedMatrix& w, float* dweight,
                      mx::array* dcodebook, GemmPrecision precision) {
  const int64_t depth = leading_size(left);
  GemmOperand a;
  GemmOperand b;
  dispatch_dtype(left.dtype(), [&]<class T>() { a = sum_rows(in_ptr<T>(left), depth, w.rows); });
  dispatch_dtype(right.dtype(), [&]<class T>() { b = sum_rows(in_ptr<T>(right), depth, w.columns); });
  if (!dcodebook) return gemm(a, b, depth, dweight, precision);
  BucketSums sums(w);
  if (depth > 0) gemm(a, b, depth, dweight, [&](const GemmTile& tile) { sums.add(tile); }, precision);
  if (depth == 0 && dweight) std::fill(dweight, dweight + w.rows * w.columns, 0.0f);
  sums.finish(*dcodebook);
}

constexpr int64_t kReducedSize = 32;     // of a weight's sides, from which training products gain by bfloat16
constexpr int64_t kTaskWords = 1 << 12;  // words of codes that one task goes through

template <class Fn>
void parallel_rows(int64_t rows, int64_t words, Fn&& fn) {
  const int64_t each = std::max<int64_t>(1, kTaskWords / std::max<int64_t>(words, 1));
  parallel_for((rows + each - 1) / each, [&](int64_t i) {
    for (int64_t row = i * each; row < std::min((i + 1) * each, rows); ++row) fn(row);
  });
}

void assign(const float* values, const CodedMatrix& w, uint32_t* codes) {
  const auto& kernels = codebook_kernels();
  const int64_t words = w.group_size / 16;
  parallel_rows(w.rows, w.words(), [&](int64_t row) {
    for (int64_t g = 0; g < w.groups(); ++g) {
      const int64_t first = row * w.words() + g * words;
      kernels.assign(values + 16 * first, w.codebook + row * w.row_stride + 4 * g, words, codes + first);
    }
  });
}

template <class T>
void dequantize(const CodedMatrix& w, T* values) {
  const auto& kernels = codebook_decode_kernels().get<T>();
  const int64_t words = w.group_size / 16;
  parallel_rows(w.rows, w.words(), [&](int64_t row) {
    const int64_t first = row * w.words();
    kernels.dequantize(w.codes + first, w.codebook + row * w.row_stride, w.groups(), words,
                       values + 16 * first);
  });
}

// sums (rows, groups, 4) of values (rows, 16 * groups * words) over equal codes.
void bucket_sums(const float* values, const uint32_t* codes, int64_t rows, int64_t groups, int64_t words,
                 float* sums) {
  const auto& kernels = codebook_kernels();
  std::fill_n(sums, 4 * rows * groups, 0.0f);
  parallel_rows(rows, groups * words, [&](int64_t row) {
    for (int64_t g = row * groups; g < (row + 1) * groups; ++g) {
      kernels.bucket_sum(codes + g * words, values + 16 * g * words, words, sums + 4 * g);
    }
  });
}

}  // namespace

void CodebookMatmul::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs,
               [transpose = transpose_, activation = activation_](const Arrays& in, Arrays& out) {
                 const Levels levels(in[2]);
                 multiply_codes(in[0], coded(in[1], in[2], levels.data()), transpose, activation, out[0]);
               });
}

void CodebookGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    weight_gradients(in[0], in[1], coded(in[2], in[3]), nullptr, &out[0], GemmPrecision::float32);
  });
}

void CodebookMatmulLatent::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs,
               [activation = activation_, half = half_levels_](const Arrays& in, Arrays& out) {
                 const Levels levels(in[2], half);
                 const CodedMatrix w = coded(out[1], in[2], levels.data());
                 assign(in[1].data<float>(), w, out[1].data<uint32_t>());
                 const bool small = std::min(w.rows, w.columns) < kReducedSize;
                 multiply_codes(in[0], w, true, small ? Activation::float32 : activation, out[0]);
               });
}

void CodebookMatmulLatentGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  const auto precision =
      activation_ == Activation::bfloat16 ? GemmPrecision::bfloat16 : GemmPrecision::float32;
  dispatch_cpu(stream(), inputs, outputs,
               [wanted = wanted_, half = half_levels_, precision](const Arrays& in, Arrays& out) {
                 const Levels levels(in[2], half);
                 const CodedMatrix w = coded(in[1], in[2], levels.data());
                 size_t next = 0;
                 if (wanted.x) {
                   const GemmOperand b = sum_rows(w);
                   dispatch_dtype(in[3].dtype(), [&]<class T>() {
                     const GemmOperand a = sum_columns(in_ptr<T>(in[3]), leading_size(in[3]), w.rows);
                     gemm(a, b, w.rows, out_ptr<T>(out[next]), precision);
                   });
                   ++next;
                 }
                 float* dweight = wanted.weight ? out[next++].data<float>() : nullptr;
                 mx::array* dcodebook = wanted.codebook ? &out[next] : nullptr;
                 if (dweight || dcodebook) weight_gradients(in[3], in[0], w, dweight, dcodebook, precision);
               });
}

void CodebookAssign::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    assign(in[0].data<float>(), coded(out[0], in[1]), out[0].data<uint32_t>());
  });
}

void CodebookDequantize::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(out[0].dtype(), [&]<class T>() { dequantize(coded(in[0], in[1]), out_ptr<T>(out[0])); });
  });
}

void BucketSum::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [groups = groups_](const Arrays& in, Arrays& out) {
    bucket_sums(in[0].data<float>(), in[1].data<uint32_t>(), in[1].shape(0), groups, in[1].shape(1) / groups,
                out[0].data<float>());
  });
}

}  // namespace ghost
