#include <algorithm>

#include "codebook_matmul/codebook_matmul_kernels.h"
#include "codebook_matmul/codebook_matmul_product.h"
#include "common/gemm.h"
#include "common/rounding.h"
#include "decode_step/packed_matrix.h"
#include "decode_step/step_state.h"
#include "dense_matmul/dense_matmul_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kDepth = 256;           // of float32 panels at once, which stay in the first-level cache
constexpr int64_t kPanelBytes = 1 << 15;  // likewise of reduced panels
constexpr int64_t kPanelsTogether = 4;    // decoded by a task

int64_t element_size(Activation activation) { return activation == Activation::int8 ? 1 : 2; }

const CodebookPanelMode& mode_of(Activation activation) {
  const auto& kernels = codebook_panel_kernels();
  return activation == Activation::int8 ? kernels.int8 : kernels.bfloat16;
}

// Depth of a reduced panel that is multiplied at once; x is stored a block of it after the other.
int64_t depth_block(Activation activation) {
  return kPanelBytes / kCodebookPanelRows / element_size(activation);
}

}  // namespace

PackedMatrix::PackedMatrix(const DecodeMatrix& matrix, Activation activation)
    : matrix_(matrix),
      activation_(matrix.form == DecodeMatrix::Form::dense ? Activation::float32 : activation) {}

int64_t PackedMatrix::panel_rows() const {
  return activation_ == Activation::float32 ? 2 * gemm_kernels().width : kCodebookPanelRows;
}

int64_t PackedMatrix::panels() const { return ceil_div(matrix_.rows, panel_rows()); }

int PackedMatrix::count(int64_t panel) const {
  return static_cast<int>(std::min(panel_rows(), matrix_.rows - panel * panel_rows()));
}

size_t PackedMatrix::panel_bytes() const {
  const int64_t element = activation_ == Activation::float32 ? 4 : element_size(activation_);
  return static_cast<size_t>(round_up(panel_rows() * matrix_.columns * element, 64));
}

float* PackedMatrix::scales(int64_t panel) const {
  return reinterpret_cast<float*>(at(panels())) + panel * panel_rows();
}

size_t PackedMatrix::bytes() const {
  return static_cast<size_t>(panels()) *
         (panel_bytes() + static_cast<size_t>(round_up(panel_rows(), 16)) * sizeof(float));
}

void PackedMatrix::pack(int64_t panel) {
  const int64_t row0 = panel * panel_rows(), columns = matrix_.columns;
  if (activation_ == Activation::float32) {
    const auto stride = static_cast<int>(panel_rows());
    const GemmOperand operand = matrix_.form == DecodeMatrix::Form::dense
                                    ? sum_columns(::ghost::floats(matrix_.values), matrix_.rows, columns)
                                    : sum_columns(matrix_.coded());
    gemm_kernels().pack(operand, row0, count(panel), stride, 0, columns, reinterpret_cast<float*>(at(panel)));
    return;
  }
  const CodedMatrix w = matrix_.coded();
  const CodebookPanelMode& mode = mode_of(activation_);
  const int64_t block = depth_block(activation_), size = element_size(activation_);
  for (int64_t k = 0; k < columns; k += block) {
    mode.pack(w, row0, count(panel), k / 16, std::min(k + block, columns) / 16,
              at(panel) + k * kCodebookPanelRows * size);
  }
  if (mode.scales) mode.scales(w, row0, count(panel), scales(panel));
}

LayerPanels::LayerPanels(const DecodeLayer& layer, Activation a)
    : in_x(layer.in_x, a),
      in_z(layer.in_z, a),
      x_proj(layer.x_proj, a),
      dt_proj(layer.dt_proj, a),
      out_proj(layer.out_proj, a),
      up(layer.up, a),
      down(layer.down, a) {
  if (!layer.attention) return;
  const DecodeAttention& heads = *layer.attention;
  for (const auto* m : {&heads.query, &heads.key, &heads.value, &heads.out}) attention.emplace_back(*m, a);
}

std::vector<PackedMatrix*> LayerPanels::all() {
  std::vector<PackedMatrix*> matrices{&in_x, &in_z, &x_proj, &dt_proj, &out_proj, &up, &down};
  for (auto& m : attention) matrices.push_back(&m);
  return matrices;
}

std::vector<PackTask> pack_tasks(const std::vector<PackedMatrix*>& matrices,
                                 std::optional<mx::array>& memory) {
  constexpr size_t kLine = 64;
  const auto wanted = [](const PackedMatrix& m) { return (m.bytes() + kLine - 1) / kLine * kLine; };
  size_t bytes = kLine;
  for (const auto* m : matrices) bytes += wanted(*m);
  if (!memory || memory->nbytes() < bytes) memory = make({static_cast<int>(bytes / sizeof(float))});
  char* to = memory->data<char>();
  to += (kLine - reinterpret_cast<uintptr_t>(to) % kLine) % kLine;
  std::vector<PackTask> tasks;
  for (auto* m : matrices) {
    m->put_at(to);
    to += wanted(*m);
    for (int64_t p = 0; p < m->panels(); p += kPanelsTogether)
      tasks.push_back({m, p, std::min(p + kPanelsTogether, m->panels())});
  }
  return tasks;
}

int64_t RowBlock::floats(int64_t columns) {
  return kBlockRows * (kCodebookPanelRows + round_up(columns, 32) / 2) + 2 * round_up(kBlockRows, 16);
}

RowBlock::RowBlock(float* memory, int64_t columns) {
  tile_ = memory;
  prepared_ = reinterpret_cast<char*>(memory + kBlockRows * kCodebookPanelRows);
  steps_ = memory + kBlockRows * (kCodebookPanelRows + round_up(columns, 32) / 2);
  sums_ = reinterpret_cast<int32_t*>(steps_ + round_up(kBlockRows, 16));
}

void RowBlock::read(const float* x, int64_t ldx, int64_t rows, int64_t columns, Activation activation) {
  x_ = x;
  ldx_ = ldx;
  rows_ = rows;
  columns_ = columns;
  activation_ = activation;
  is_prepared_ = false;
}

void RowBlock::multiply(const PackedMatrix& w, float* y, int64_t ldy) const {
  const DecodeMatrix& m = w.matrix();
  if (w.is_packed())
    return w.activation() == Activation::float32 ? multiply_float32(w, y, ldy) : multiply_reduced(w, y, ldy);
  if (m.form == DecodeMatrix::Form::dense) {
    dense_dot_kernels().get<float>().dot(x_, static_cast<int>(rows_), ::ghost::floats(m.values), m.columns, 0,
                                         m.rows, y, ldy);
  } else {
    multiply_codes(x_, rows_, m.coded(), y, activation_);
  }
}

void RowBlock::multiply_float32(const PackedMatrix& w, float* y, int64_t ldy) const {
  const auto& kernels = gemm_kernels();
  const int64_t stride = w.panel_rows();
  // As even heights as can be.
  const int64_t each = ceil_div(rows_, ceil_div(rows_, kernels.max_rows));
  for (int64_t p = 0; p < w.panels(); ++p) {
    const float* panel = reinterpret_cast<const float*>(w.at(p));
    for (int64_t k = 0; k < columns_; k += kDepth) {
      const int64_t depth = std::min(kDepth, columns_ - k);
      for (int64_t m = 0; m < rows_; m += each) {
        const int height = static_cast<int>(std::min(each, rows_ - m));
        kernels.micro[2 * (height - 1) + 1](depth, x_ + m * ldx_ + k, ldx_, 1, panel + k * stride,
                                            y + m * ldy + p * stride, ldy, height, w.count(p), k > 0);
      }
    }
  }
}

void RowBlock::multiply_reduced(const PackedMatrix& w, float* y, int64_t ldy) const {
  const auto& kernels = codebook_panel_kernels();
  const CodebookPanelMode& mode = mode_of(activation_);
  const int64_t size = element_size(activation_), block = depth_block(activation_);
  const auto width = [&](int64_t k) { return std::min(block, columns_ - k); };
  const auto rows_at = [&](int64_t k) { return prepared_ + k * rows_ * size; };
  if (!is_prepared_) {
    for (int64_t m = 0; m < rows_; ++m) {
      const float* row = x_ + m * ldx_;
      if (activation_ == Activation::int8) steps_[m] = int8_step(row, columns_);
      sums_[m] = 0;
      for (int64_t k = 0; k < columns_; k += block) {
        char* to = rows_at(k) + m * width(k) * size;
        if (activation_ == Activation::int8) {
          sums_[m] += kernels.prepare_int8(row + k, steps_[m], width(k), reinterpret_cast<int8_t*>(to));
        } else {
          kernels.prepare_bfloat16(row + k, width(k), reinterpret_cast<uint16_t*>(to));
        }
      }
    }
    is_prepared_ = true;
  }
  const PreparedRows rows{nullptr, 0, rows_, steps_, sums_};
  for (int64_t p = 0; p < w.panels(); ++p) {
    for (int64_t k = 0; k < columns_; k += block) {
      mode.multiply(width(k) / 16, rows_at(k), width(k) * size, rows_,
                    w.at(p) + k * kCodebookPanelRows * size, tile_, k > 0);
    }
    mode.finish(w.scales(p), w.count(p), tile_, rows, y + p * kCodebookPanelRows, ldy);
  }
}

bool prefill_available(const DecodeWeights& w, Activation activation) {
  if (activation == Activation::float32) return true;
  // 127 * 127 * columns has to fit 32 bits.
  constexpr int kWidest = 1 << 17;
  return mode_of(activation).multiply &&
         std::all_of(w.layers.begin(), w.layers.end(), [](const DecodeLayer& layer) {
           return std::max({layer.in_x.columns, layer.A.shape(0), layer.up.rows}) <= kWidest;
         });
}

}  // namespace ghost
