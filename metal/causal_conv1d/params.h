#pragma once

// Sizes that the host's grids and the kernels agree on.
struct CausalConv1dLayout {
  enum : int {
    tiles_per_group =
        4,              // SIMD-groups of a threadgroup: on the same channels, so that they share the filters
    sum_groups = 8,     // SIMD-groups that sum up the gradient of the filters of 32 channels
    backward_pack = 4,  // channels of a lane backward, where dim allows it: 8 leave no room for the sums
  };
};

// Kernels see all sequences as one flat operand of `total` rows. A SIMD-group walks a tile of rows over 32
// packs of channels; the SIMD-groups after the last tile each look after one sequence that has no rows.
struct CausalConv1dParams {
  int total;
  int dim;
  int batch;
  int seqlen;     // rows of every sequence; not used when ragged
  int tile_rows;  // rows of a tile
  int tiles;      // tiles, in order
  int ragged;     // sequences are those of cu_seqlens
  int has_state;  // rows before a sequence come from its state, else they are zero
  int silu;
  int vector;  // channels are loaded in packs: dim and every base allow it
};

// The sums of dweight and dbias over the tiles.
struct CausalConv1dSumParams {
  int dim;
  int tiles;
};
