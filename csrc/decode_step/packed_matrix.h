#pragma once

#include "decode_step/decode_step.h"

namespace ghost {

// Rows of x that a task multiplies with all of a matrix while they, and what becomes of them, stay in its
// core's cache.
inline constexpr int64_t kBlockRows = 64;

// A matrix decoded for many rows of x: panels of weight rows, as the micro kernels of gemm (float32) or of
// codebook_matmul (bfloat16, int8) read them.
class PackedMatrix {
 public:
  PackedMatrix(const DecodeMatrix& matrix, Activation activation);

  const DecodeMatrix& matrix() const { return matrix_; }
  // How products are computed; of dense weights in float32.
  Activation activation() const { return activation_; }
  int64_t panels() const;
  // Memory it wants, aligned to 64 bytes, and gets before it is packed.
  size_t bytes() const;
  void put_at(char* data) { data_ = data; }
  void pack(int64_t panel);
  bool is_packed() const { return data_ != nullptr; }

 private:
  friend class RowBlock;
  int64_t panel_rows() const;
  int count(int64_t panel) const;
  size_t panel_bytes() const;
  char* at(int64_t panel) const { return data_ + static_cast<size_t>(panel) * panel_bytes(); }
  float* scales(int64_t panel) const;  // int8: behind the panels

  const DecodeMatrix& matrix_;
  Activation activation_;
  char* data_ = nullptr;
};

// The matrices of a layer.
class LayerPanels {
 public:
  LayerPanels(const DecodeLayer& layer, Activation a);

  PackedMatrix in_x, in_z, x_proj, dt_proj, out_proj, up, down;
  std::vector<PackedMatrix> attention;  // query, key, value and out
  std::vector<PackedMatrix*> all();
};

// Some panels of a matrix, to be decoded.
struct PackTask {
  PackedMatrix* matrix;
  int64_t begin;
  int64_t end;
  void run() const {
    for (int64_t p = begin; p < end; ++p) matrix->pack(p);
  }
};

// The tasks that decode all of these matrices, into memory that is made if there is not enough.
std::vector<PackTask> pack_tasks(const std::vector<PackedMatrix*>& matrices,
                                 std::optional<mx::array>& memory);

// Up to kBlockRows rows of x, rounded to what a mode keeps of them, and their products.
class RowBlock {
 public:
  // Floats of working memory for rows of at most `columns`.
  static int64_t floats(int64_t columns);

  explicit RowBlock(float* memory, int64_t columns);

  // Takes `rows` rows of x, ldx apart, which stay where they are.
  void read(const float* x, int64_t ldx, int64_t rows, int64_t columns, Activation activation);
  // y (rows, matrix rows), ldy apart. Without panels x and y have to be contiguous.
  void multiply(const PackedMatrix& w, float* y, int64_t ldy) const;

 private:
  void multiply_float32(const PackedMatrix& w, float* y, int64_t ldy) const;
  void multiply_reduced(const PackedMatrix& w, float* y, int64_t ldy) const;

  float* steps_;
  int32_t* sums_;
  float* tile_;
  char* prepared_;
  const float* x_ = nullptr;
  int64_t ldx_ = 0;
  int64_t rows_ = 0;
  int64_t columns_ = 0;
  Activation activation_ = Activation::float32;
  mutable bool is_prepared_ = false;
};

}  // namespace ghost
