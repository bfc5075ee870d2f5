#pragma once

// Sizes that the host's grids and the kernels agree on.
struct CodebookMatmulLayout {
  enum : int {
    gemv_rows = 4,       // rows of W of a SIMD-group, in x W^T
    gemv_groups = 2,     // SIMD-groups of such a threadgroup
    gemv_n_groups = 4,   // the same in x W, where they share the rows
    gemv_columns = 512,  // columns of x W of a threadgroup
    mma_rows = 32,       // rows of W of a threadgroup
    tile = 64,           // rows and columns of y, or of dW, of a threadgroup
    tile_threads = 128,
    sum_threads = 128,
    grad_block = 32,  // columns of dW that leave one sum over equal codes
    word_groups = 8,  // SIMD-groups that go over a weight word by word, 32 words each
  };
};

// y = x W^T or x W for x and y of M rows and W (N, K) given by codes.
struct CodebookMatmulParams {
  int M;
  int N;
  int K;
  int codebook_stride;  // floats between the codebooks of neighbouring rows of W: 0 for a shared one
  int group_shift;      // log2 of the columns that share a codebook, where that is a group
  int split_rows;       // x W with few rows of x: rows of W that one split sums
};

// The second pass of that: y is the sum of the splits.
struct CodebookMatmulSumParams {
  int elements;  // of y
  int splits;
};

// dW = left^T right for left (M, N) and right (M, K), kept, or summed over equal codes, or both.
struct CodebookGradParams {
  int M;
  int N;
  int K;
  int split_rows;     // rows that one split sums, a multiple of the rows of a stage
  int blocks;         // runs of 32 columns: ceil(K / 32)
  int left_vectors;   // every row of left begins at a multiple of 16 bytes
  int right_vectors;  // and of right
  int keep;           // dW leaves the tile, by split
  int bucket;         // sums over equal codes are
  int shared;         // one codebook for the whole weight: sums of whole tiles
};

// The second pass: sums of blocks to sums of groups.
struct CodebookGradGroupsParams {
  int N;
  int blocks;
  int groups;
  int group_blocks;  // blocks of a group
  int splits;
  int group_lanes;  // neighbouring groups summed by neighbouring lanes: 1, 2 or 4
};

// The second pass of a shared codebook.
struct CodebookGradAllParams {
  int tiles;  // of all splits
};

// Conversions between weights and codes, word by word of the (N, K / 16) codes.
struct CodebookWordsParams {
  int words;             // of the whole weight
  int group_words;       // words in a row that share a codebook
  int codebook_vectors;  // the codebook begins at a multiple of 16 bytes
  int weight_vectors;    // the weight does
};

struct BucketSumParams {
  int N;
  int row_words;    // K / 16
  int group_words;  // 2, 4, 8, or row_words
  int vectors;      // dw begins at a multiple of 16 bytes
};
