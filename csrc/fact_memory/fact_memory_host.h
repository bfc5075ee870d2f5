#pragma once

// The work of the primitives on one byte of text, for those who have its numbers at hand.
#include <cstdint>
#include <vector>

#include "fact_memory/fact_memory_kernels.h"

namespace ghost {

// Inputs of FactMatch but for the text.
struct FactSpelling {
  const int32_t* keys;
  const int32_t* key_length;
  const uint32_t* key_hash;
  const uint32_t* byte_hash;
  const int32_t* word;
  int64_t rows;
  int64_t width;
  uint32_t hash_base;
};

// The row announced at the byte `now`, before which there are at least width + 1 others.
int32_t fact_match_at(const FactSpelling& spelling, const int32_t* now);

// What is known of one byte of the text, and where its scores and candidates go.
struct FactText {
  const float* dot;
  const float* bag;
  const int32_t* hit_row;
  const float* hit_log;
  int64_t slots;
};
struct FactChoice {
  float* scores;
  float* cosine;
  int32_t* candidates;
  float* log_weights;
  float* log_norm;
  int64_t count;
};

// A table of keys, made ready for scoring.
class FactScorer {
 public:
  FactScorer(const float* keys, const int32_t* key_length, int64_t rows, int64_t dim, const float* log_scale,
             float null_score);

  void choose(const FactText& text, const FactChoice& to) const;
  FactQuery query(const FactText& text, FactHit* hits) const;
  FactKeys keys() const {
    return {rows_, inverse_root_.data(), inverse_.data(), offset_.data(), longer_.data()};
  }
  bool is_key(int64_t row) const { return inverse_[static_cast<size_t>(row)] != 0.0f; }

 private:
  int64_t rows_;
  int64_t dim_;
  float scale_[5];
  std::vector<float> inverse_root_;
  std::vector<float> inverse_;
  std::vector<float> offset_;
  std::vector<float> longer_;
};

struct FactValues {
  const int32_t* values;
  const uint32_t* context;
  const int32_t* length;
  int64_t rows;
};

// scale (5,) with the bonuses for 0 to 4 agreeing bytes summed up.
void fact_position_scale(const float* scale, float* summed);

// newest: the byte itself, in the text.
FactPlace fact_place(const FactValues& values, const float* began, const int32_t* candidates,
                     const float* log_weights, int64_t count, int64_t width, const int32_t* newest,
                     const float* scale, float* work);

}  // namespace ghost
