#pragma once

// Sizes that the host's grids and the kernels agree on.
struct SelectiveScanLayout {
  enum : int {
    channels = 32,      // of a threadgroup: a row of them fills the 64 bytes of a fetch at any dtype
    threads = 128,      // four lanes per channel
    pass_states = 16,   // states of a channel that are in registers at a time, four per lane
    chunk = 32,         // steps between saved states
    ladder_lanes = 32,  // elements of the state that a threadgroup of the ladder takes
    ladder_threads = 256,
    sum_threads = 128,
  };
};

// Kernels see all sequences as one flat operand of `total` rows. A threadgroup scans 32 channels of one group
// over one segment of one sequence.
struct SelectiveScanParams {
  int batch;   // sequences
  int seqlen;  // rows of every sequence; not used when ragged
  int total;
  int dim;
  int dstate;
  int ngroups;
  int segments;      // that every sequence is cut into
  int segment_rows;  // a multiple of a chunk
  int ragged;        // sequences are those of cu_seqlens
  int softplus;
  int has_D;
  int has_z;
  int has_bias;
  int has_state;      // states come in; else they are zero
  int saving;         // states between chunks go out
  int vector_rows;    // four channels of a row can be loaded at once: sizes and every base allow it
  int vector_states;  // and so can four states
};

// The composition of the segments of `batch` sequences, first to last or the other way round.
struct SelectiveScanLadderParams {
  int segments;
  int dim;
  int dstate;
  int has_state;
  int reverse;
};

// The sum of `count` operands of `size` elements.
struct SelectiveScanSumParams {
  int count;
  int size;
  int vector;
};
