#pragma once

#include <cstdint>

#include "common/isa.h"
#include "common/per_dtype.h"

namespace ghost {

// Steps between saved states, and steps handled at once by the kernels.
constexpr int64_t kScanChunk = 32;

// Channels [channel0, channel0 + channels) of one group: what one task scans. Channels go in blocks of one
// vector; `block0` is the first block of the slice among those of all channels.
struct ScanSlice {
  int64_t channel0;
  int64_t channels;
  int64_t block0;
};

// One sequence as the kernels see it. u, delta and z have rows of `dim`; B and C point at the slice's group
// and have rows `bc_stride` apart. Optional operands are null when absent.
template <class T>
struct ScanSequence {
  const T* u;
  const T* delta;
  const T* z;
  const float* A;  // (dim, dstate) for step; packed for the others
  const float* B;
  const float* C;
  const float* D;           // (dim,)
  const float* delta_bias;  // (dim,)
  const float* state;       // (dim, dstate) before the first row, zero when null
  int64_t seqlen;
  int64_t dim;
  int64_t bc_stride;
  int dstate;
  bool softplus;
};

// Where the backward of one sequence and slice puts its results. dB and dC are this slice's share, rows
// `bc_stride` apart; dA, dD and ddelta_bias are added to, in packed form: per block (dstate, width), and
// (width).
template <class T>
struct ScanGradients {
  T* du;
  T* ddelta;
  T* dz;
  float* dstate;  // (dim, dstate)
  float* dB;
  float* dC;
  float* dA;
  float* dD;
  float* ddelta_bias;
};

template <class T>
struct SelectiveScanKernels {
  int width;  // channels of a block
  // A of a slice, (dim, dstate), to packed (block, dstate, width) times log2(e), and a gradient back from it.
  void (*pack)(const float* A, const ScanSlice&, int dstate, float* packed);
  void (*unpack)(const float* packed, const ScanSlice&, int dstate, float* dA);
  // Scratch floats that forward and backward want for a slice.
  int64_t (*forward_scratch)(const ScanSlice&, int dstate);
  int64_t (*backward_scratch)(const ScanSlice&, int dstate);
  // y, last_state (dim, dstate) and, unless null, the state before every chunk but the first as
  // (chunk, dstate, dim).
  void (*forward)(const ScanSequence<T>&, const ScanSlice&, T* y, float* last_state, float* saved,
                  float* scratch);
  void (*backward)(const ScanSequence<T>&, const ScanSlice&, const T* dy, const float* dlast_state,
                   const float* saved, const ScanGradients<T>&, float* scratch);
  // One row, vectorised over states instead of channels: nothing to transpose.
  void (*step)(const ScanSequence<T>&, const ScanSlice&, T* y, float* last_state);
};

using SelectiveScanTable = PerDtype<SelectiveScanKernels>;
GHOST_DECLARE_KERNELS(SelectiveScanTable, selective_scan_table, selective_scan_kernels)

}  // namespace ghost
