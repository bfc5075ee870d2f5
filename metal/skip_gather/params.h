#pragma once

// SIMD-groups of a threadgroup in every kernel but routing_plan_scan, which is one threadgroup.
struct SkipGatherLayout {
  enum : int {
    groups = 4,
    scan_groups = 8,
    rows_in_flight = 4,  // rows that a SIMD-group copies side by side
    block_rows = 512,    // rows of the mask that a SIMD-group compacts: 16 bytes a lane
    pad_entries = 128,   // entries of a plan that a SIMD-group fills up with `total`
  };
};

struct RoutingPlanParams {
  int total;  // rows of the mask
  int batch;
  int seqlen;    // rows of every sequence; not used when ragged
  int ragged;    // sequences are those of cu_seqlens
  int capacity;  // entries of the plan
  int blocks;    // of block_rows rows
  int vector;    // the mask begins at a multiple of 16 bytes
};

// The rows that can be in the plan, [first, last), which are those of a sequence, and what the mask says of
// them: set rows before the first, set rows among them.
struct RoutedRange {
  int first;
  int last;
  int before;
  int count;
};

struct SkipGatherParams {
  int rows;  // of the operand that indices name rows of
  int n;     // entries of the plan
  int dim;
  int copy_groups;  // SIMD-groups that copy the rows no entry names; 0 in place
  int gated;
  int saves;     // the difference is an output
  int vector16;  // dim and every base allow 16 bytes at once
  int vector4;   // and four elements at once
};
