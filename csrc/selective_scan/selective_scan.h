#pragma once

#include <optional>
#include <utility>

#include "common/primitive.h"

namespace ghost {

// The operands of the scan. Shapes with rows as (batch, seqlen), or as (total) with cu_seqlens:
//   u, delta, z (rows, dim)       float32, float16 or bfloat16, the three alike
//   A (dim, dstate)               real
//   B, C (rows, dstate) or (rows, ngroups, dstate), ngroups dividing dim
//   D, delta_bias (dim,)
//   initial_state (batch, dim, dstate)
struct ScanOperands {
  const mx::array& u;
  const mx::array& delta;
  const mx::array& A;
  const mx::array& B;
  const mx::array& C;
  const std::optional<mx::array>& D;
  const std::optional<mx::array>& z;
  const std::optional<mx::array>& delta_bias;
  const std::optional<mx::array>& initial_state;
  const std::optional<mx::array>& cu_seqlens;
};

// The selective scan, channels last:
//   h[t] = exp(delta[t] A) h[t - 1] + delta[t] u[t] B[t]      per channel and state
//   y[t] = (sum_n C[t, n] h[t, n] + D u[t]) silu(z[t])
// with delta replaced by softplus(delta + delta_bias) where asked. Returns y like u and the float32 state
// after the last row of every sequence.
std::pair<mx::array, mx::array> selective_scan(
    const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B, const mx::array& C,
    const std::optional<mx::array>& D, const std::optional<mx::array>& z,
    const std::optional<mx::array>& delta_bias, bool delta_softplus,
    const std::optional<mx::array>& initial_state, const std::optional<mx::array>& cu_seqlens,
    mx::StreamOrDevice s = {});

// One row per sequence: u, delta, z (batch, dim), B, C (batch, [ngroups,] dstate). Returns y and the new
// state.
std::pair<mx::array, mx::array> selective_state_update(const mx::array& state, const mx::array& u,
                                                       const mx::array& delta, const mx::array& A,
                                                       const mx::array& B, const mx::array& C,
                                                       const std::optional<mx::array>& D,
                                                       const std::optional<mx::array>& z,
                                                       const std::optional<mx::array>& delta_bias,
                                                       bool delta_softplus, mx::StreamOrDevice s = {});

// y and the state after every row, (rows, dim, dstate) float32: for short windows.
std::pair<mx::array, mx::array> selective_scan_states(
    const mx::array& u, const mx::array& delta, const mx::array& A, const mx::array& B, const mx::array& C,
    const std::optional<mx::array>& D, const std::optional<mx::array>& z,
    const std::optional<mx::array>& delta_bias, bool delta_softplus,
    const std::optional<mx::array>& initial_state, const std::optional<mx::array>& cu_seqlens,
    mx::StreamOrDevice s = {});

// How rows make sequences: (batch, seqlen), cu_seqlens, or every row one sequence of its own.
enum class ScanRowsAs { equal, ragged, single };

// Which inputs there are, in the order u, delta, A, B, C[, D][, z][, delta_bias][, initial_state]
// [, cu_seqlens], and what is done with them.
struct SelectiveScanOptions {
  ScanRowsAs rows = ScanRowsAs::equal;
  bool softplus = false;
  bool has_D = false;
  bool has_z = false;
  bool has_bias = false;
  bool has_state = false;
  bool operator==(const SelectiveScanOptions&) const = default;

  bool ragged() const { return rows == ScanRowsAs::ragged; }
  int D() const { return has_D ? 5 : -1; }
  int z() const { return has_z ? 5 + has_D : -1; }
  int delta_bias() const { return has_bias ? 5 + has_D + has_z : -1; }
  int initial_state() const { return has_state ? 5 + has_D + has_z + has_bias : -1; }
  int num_floats() const { return 5 + has_D + has_z + has_bias + has_state; }  // the differentiable inputs
  int cu_seqlens() const { return ragged() ? num_floats() : -1; }
  int num_inputs() const { return num_floats() + ragged(); }
};

// Outputs y, last_state and, when saving, the states between chunks (chunks, dstate, dim): chunk i of a
// sequence starts at row 32 i, and the first chunk's state is not saved.
class SelectiveScan : public Primitive {
 public:
  SelectiveScan(mx::Stream stream, SelectiveScanOptions options, bool saving);

  GHOST_EVAL
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(SelectiveScan)

  static Arrays build(const Arrays& inputs, SelectiveScanOptions options, bool saving, mx::Stream s);

 private:
  SelectiveScanOptions options_;
  bool saving_;
};

// Inputs of the forward, the saved states, dy, dlast_state; outputs the gradients of the float inputs.
class SelectiveScanGrad : public Primitive {
 public:
  SelectiveScanGrad(mx::Stream stream, SelectiveScanOptions options);

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(SelectiveScanGrad)

 private:
  SelectiveScanOptions options_;
};

// Outputs y and all states. Differentiated through its composed form.
class SelectiveScanStates : public Primitive {
 public:
  SelectiveScanStates(mx::Stream stream, SelectiveScanOptions options);

  GHOST_EVAL
  std::vector<mx::Shape> output_shapes(const Arrays& inputs) override;
  bool is_equivalent(const mx::Primitive& other) const override;
  DEFINE_NAME(SelectiveScanStates)

 private:
  SelectiveScanOptions options_;
};

// The same outputs from MLX's own operations (selective_scan_composed.cpp).
ComposedForm composed_selective_scan(SelectiveScanOptions options, bool saving, mx::Stream s);
ComposedForm composed_selective_scan_grad(SelectiveScanOptions options, mx::Stream s);
ComposedForm composed_selective_scan_states(SelectiveScanOptions options, mx::Stream s);

// Saved states there may be for these inputs: exact for equal sequences, a bound for ragged ones.
int num_saved_states(const Arrays& inputs, const SelectiveScanOptions& options);

}  // namespace ghost
