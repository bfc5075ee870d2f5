#include <algorithm>
#include <cmath>

#include "fact_memory/fact_memory_host.h"

namespace ghost {

int32_t fact_match_at(const FactSpelling& s, const int32_t* now) {
  const auto is_word = [&](const int32_t* byte) { return s.word[std::clamp(*byte, 0, 256)] != 0; };
  if (is_word(now - 1) && is_word(now)) return 0;
  // Hashes of the last 1, 2, ... bytes; even ones are where no key may begin, for those of keys are odd.
  constexpr int64_t kMost = 256;
  uint32_t few[kMost];
  std::vector<uint32_t> many(static_cast<size_t>(s.width > kMost ? s.width : 0));
  uint32_t* hashes = s.width > kMost ? many.data() : few;
  uint32_t hash = 0;
  uint32_t power = 1;
  for (int64_t i = 0; i < s.width; ++i) {
    const int32_t* byte = now - 1 - i;
    hash += s.byte_hash[std::clamp(*byte, 0, 256)] * power;
    power *= s.hash_base;
    hashes[i] = is_word(byte) && is_word(byte - 1) ? 0u : hash | 1u;
  }
  int32_t best = 0;
  int32_t longest = 0;
  for (int64_t r = 0; r < s.rows; ++r) {
    const int32_t length = std::min<int32_t>(s.key_length[r], static_cast<int32_t>(s.width));
    if (length > longest && hashes[length - 1] == s.key_hash[r]) {
      best = static_cast<int32_t>(r);
      longest = length;
    }
  }
  const int32_t* key = s.keys + (best + 1) * s.width - longest;
  return longest > 0 && std::equal(key, key + longest, now - longest) ? best : 0;
}

FactScorer::FactScorer(const float* keys, const int32_t* key_length, int64_t rows, int64_t dim,
                       const float* log_scale, float null_score)
    : rows_(rows),
      dim_(dim),
      inverse_root_(static_cast<size_t>(rows)),
      inverse_(inverse_root_.size()),
      offset_(inverse_root_.size()),
      longer_(inverse_root_.size()) {
  for (int i = 0; i < 5; ++i) scale_[i] = std::exp(log_scale[i]);
  fact_memory_kernels().norms(keys, rows, dim, inverse_.data());
  for (size_t r = 0; r < inverse_.size(); ++r) {
    const bool is_key = key_length[r] > 0;
    inverse_[r] = is_key ? 1.0f / inverse_[r] : 0.0f;
    inverse_root_[r] = std::sqrt(inverse_[r]);
    offset_[r] = is_key ? 0.0f : r == 0 ? null_score : kFactPadding;
    longer_[r] = static_cast<float>(std::min(key_length[r], 24)) / 24.0f;
  }
}

FactQuery FactScorer::query(const FactText& text, FactHit* hits) const {
  float norm = 0.0f;
  fact_memory_kernels().norms(text.bag, 1, dim_, &norm);
  int64_t count = 0;
  for (int64_t i = 0; i < text.slots; ++i) {
    const int64_t row = text.hit_row[i];
    if (row < 0 || row >= rows_ || !is_key(row)) continue;
    // Of several hits of a row the strongest counts, of equals the last.
    bool counts = true;
    for (int64_t j = 0; j < text.slots; ++j) {
      const bool stronger =
          text.hit_log[j] > text.hit_log[i] || (text.hit_log[j] == text.hit_log[i] && j > i);
      if (text.hit_row[j] == row && stronger) counts = false;
    }
    if (counts) hits[count++] = {row, std::exp(text.hit_log[i]), i};
  }
  return {text.dot, 1.0f / std::sqrt(norm), scale_, hits, count};
}

void FactScorer::choose(const FactText& text, const FactChoice& to) const {
  FactHit few[8];
  std::vector<FactHit> many(static_cast<size_t>(text.slots > 8 ? text.slots : 0));
  const auto& kernels = fact_memory_kernels();
  *to.cosine = kernels.scores(keys(), query(text, text.slots > 8 ? many.data() : few), to.scores);
  to.candidates[0] = 0;
  for (int64_t k = 1; k < to.count; ++k) {
    to.candidates[k] = static_cast<int32_t>(kernels.best(to.scores, rows_, to.candidates, k));
  }
  float largest = to.scores[0];
  for (int64_t k = 0; k < to.count; ++k) largest = std::max(largest, to.scores[to.candidates[k]]);
  float total = 0.0f;
  for (int64_t k = 0; k < to.count; ++k) total += std::exp(to.scores[to.candidates[k]] - largest);
  *to.log_norm = largest + std::log(total);
  for (int64_t k = 0; k < to.count; ++k) to.log_weights[k] = to.scores[to.candidates[k]] - *to.log_norm;
}

void fact_position_scale(const float* scale, float* summed) {
  summed[0] = scale[0];
  summed[1] = 0.0f;
  for (int i = 1; i < 5; ++i) summed[1 + i] = summed[i] + scale[i];
}

FactPlace fact_place(const FactValues& values, const float* began, const int32_t* candidates,
                     const float* log_weights, int64_t count, int64_t width, const int32_t* newest,
                     const float* scale, float* work) {
  uint32_t recent = 0;
  for (int back = 0; back < 4; ++back) recent |= (static_cast<uint32_t>(newest[-back]) & 255u) << (8 * back);
  return {began, candidates,    log_weights,    count,         width,       recent,
          scale, values.values, values.context, values.length, values.rows, work};
}

}  // namespace ghost
