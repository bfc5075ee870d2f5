#pragma once

#include <cstdint>

#include "common/isa.h"

namespace ghost {

inline constexpr float kFactPadding = -1e4f;  // score of what is not there
inline constexpr float kFactFloor = -12.0f;
inline constexpr int kFactBytes = 256;

// What the score of a row takes from its key alone. Rows without a key have zeros for the first two and their
// whole score as offset.
struct FactKeys {
  int64_t rows;
  const float* inverse_root;  // (|key|^2 + 0.1)^-1/2
  const float* inverse;       // its square
  const float* offset;
  const float* longer;  // min(length, 24) / 24
};

// One byte of the text: the hits that count, each of another row, and exp(log_scale).
struct FactHit {
  int64_t row;
  float strength;
  int64_t slot;
};
struct FactQuery {
  const float* dot;  // (rows,)
  float bag_inverse_root;
  const float* scale;  // (5,)
  const FactHit* hits;
  int64_t hit_count;
};

// What flows into and out of one byte's scores; sums are added to.
struct FactScoreGrads {
  const float* dscores;  // (rows,)
  float dcosine;
  float* ddot;       // (rows,)
  float* dnorm;      // (rows,) sum for |key|^2 + 0.1
  float* dscale;     // (5,) sums, of exp(log_scale)
  float* dstrength;  // (hit_count,)
  float dbag_norm;
};

// One byte of the text and the candidates that the bytes before it had, j bytes ago at -j * count.
struct FactPlace {
  const float* began;  // (width,)
  const int32_t* candidates;
  const float* log_weights;
  int64_t count;
  int64_t width;
  uint32_t recent;     // the last four bytes, newest lowest
  const float* scale;  // weight of the counter, then the bonus for 0 to 4 agreeing bytes
  const int32_t* values;
  const uint32_t* context;
  const int32_t* length;
  int64_t rows;
  float* work;  // 3 * width * count floats
};

struct FactMemoryKernels {
  void (*norms)(const float* x, int64_t rows, int64_t dim, float* squared);
  // scores (rows,); returns the largest cosine, zero counted.
  float (*scores)(const FactKeys&, const FactQuery&, float* scores);
  void (*scores_grad)(const FactKeys&, const FactQuery&, FactScoreGrads&);
  // The largest score of rows other than `without`; the first such row if several have it.
  int64_t (*best)(const float* scores, int64_t rows, const int32_t* without, int64_t count);
  // copy (256,); returns through inside, null_inside (before they are limited to 1) and log_sum.
  void (*positions)(const FactPlace&, float* copy, float* inside, float* null_inside, float* log_sum);
  // Writes dbegan (width,), adds to dlog_weights as log_weights are placed and to dscale (6,), which is laid
  // out like scale, but bonus n for exactly n agreeing bytes.
  void (*positions_grad)(const FactPlace&, const float* copy, float log_sum, const float* dcopy,
                         float dinside, float dnull_inside, float* dbegan, float* dlog_weights,
                         float* dscale);
};

GHOST_DECLARE_KERNELS(FactMemoryKernels, fact_memory_table, fact_memory_kernels)

}  // namespace ghost
