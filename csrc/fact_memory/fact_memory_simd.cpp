#include "common/simd_loop.h"
#include "fact_memory/fact_memory_kernels.h"

namespace ghost::GHOST_ISA {
namespace {

constexpr float kLowest = -__builtin_inff();

void norms(const float* x, int64_t rows, int64_t dim, float* squared) {
  for (int64_t r = 0; r < rows; ++r, x += dim) {
    F32 total = splat(0.0f);
    for_vectors(dim, [&](int64_t i, auto io) {
      const F32 v = io.get(x + i);
      total = fma(v, v, total);
    });
    squared[r] = sum(total) + 0.1f;
  }
}

// What an exact hit is worth where it has not faded.
float exact_of(const FactKeys& keys, const FactQuery& query, int64_t row, float cosine) {
  return query.scale[2] + query.scale[3] * keys.longer[row] + query.scale[4] * cosine;
}

float cosine_of(const FactKeys& keys, const FactQuery& query, int64_t row) {
  return query.dot[row] * keys.inverse_root[row] * query.bag_inverse_root;
}

float scores(const FactKeys& keys, const FactQuery& query, float* out) {
  const F32 of_cosine = splat(query.scale[0]);
  const F32 of_coverage = splat(query.scale[1]);
  const F32 by = splat(query.bag_inverse_root);
  F32 largest = splat(0.0f);
  for_vectors(keys.rows, [&](int64_t i, auto io) {
    const F32 dot = io.get(query.dot + i);
    const F32 cosine = dot * io.get(keys.inverse_root + i) * by;
    const F32 coverage = min(splat(1.2f), dot * io.get(keys.inverse + i));
    largest = max(largest, cosine);
    io.put(out + i, fma(of_cosine, cosine, fma(of_coverage, coverage, io.get(keys.offset + i))));
  });
  for (int64_t i = 0; i < query.hit_count; ++i) {
    const FactHit& hit = query.hits[i];
    out[hit.row] += exact_of(keys, query, hit.row, cosine_of(keys, query, hit.row)) * hit.strength;
  }
  return max_lane(largest);
}

void scores_grad(const FactKeys& keys, const FactQuery& query, FactScoreGrads& grads) {
  const float root = query.bag_inverse_root;
  float of_bag = 0.0f;  // sum of dcosine * cosine / root
  const auto add_cosine = [&](int64_t row, float d) {
    const float to = keys.inverse_root[row];
    grads.ddot[row] += d * to * root;
    grads.dnorm[row] -= 0.5f * d * query.dot[row] * root * to * keys.inverse[row];
    of_bag += d * query.dot[row] * to;
  };
  const F32 of_cosine = splat(query.scale[0]);
  const F32 of_coverage = splat(query.scale[1]);
  const F32 by = splat(root);
  F32 bag = splat(0.0f);
  F32 cosines = splat(0.0f);
  F32 coverages = splat(0.0f);
  for_vectors(keys.rows, [&](int64_t i, auto io) {
    const F32 dot = io.get(query.dot + i);
    const F32 d = io.get(grads.dscores + i);
    const F32 to = io.get(keys.inverse_root + i);
    const F32 inverse = io.get(keys.inverse + i);
    const F32 ratio = dot * inverse;
    const F32 along = dot * to;  // the cosine but for the bag's norm
    const F32 dcosine = d * of_cosine;
    const F32 dratio = select_gt(splat(1.2f), ratio, d * of_coverage, splat(0.0f));
    io.put(grads.ddot + i, fma(dcosine * to, by, dratio * inverse));
    const F32 dnorm = fma(splat(0.5f) * dcosine * along, by * inverse, dratio * ratio * inverse);
    io.put(grads.dnorm + i, io.get(grads.dnorm + i) - dnorm);
    bag = fma(dcosine, along, bag);
    cosines = fma(d, along * by, cosines);
    coverages = fma(d, min(splat(1.2f), ratio), coverages);
  });
  of_bag += sum(bag);
  grads.dscale[0] += sum(cosines);
  grads.dscale[1] += sum(coverages);
  for (int64_t i = 0; i < query.hit_count; ++i) {
    const FactHit& hit = query.hits[i];
    const float d = grads.dscores[hit.row];
    const float cosine = cosine_of(keys, query, hit.row);
    grads.dstrength[i] = d * exact_of(keys, query, hit.row, cosine);
    grads.dscale[2] += d * hit.strength;
    grads.dscale[3] += d * hit.strength * keys.longer[hit.row];
    grads.dscale[4] += d * hit.strength * cosine;
    add_cosine(hit.row, d * query.scale[4] * hit.strength);
  }
  if (grads.dcosine != 0.0f) {
    int64_t row = -1;
    float largest = 0.0f;
    for (int64_t i = 0; i < keys.rows; ++i) {
      const float cosine = cosine_of(keys, query, i);
      if (cosine > largest) {
        largest = cosine;
        row = i;
      }
    }
    if (row >= 0) add_cosine(row, grads.dcosine);
  }
  grads.dbag_norm = -0.5f * of_bag * root * root * root;
}

int64_t best(const float* scores, int64_t rows, const int32_t* without, int64_t count) {
  // The largest of every lane's rows, then the first row that has it; both loops have no branches inside.
  constexpr int64_t block = 256;
  float largest = kLowest;
  int64_t found = 0;
  for (int64_t begin = 0; begin < rows; begin += block) {
    const int64_t end = min_of(begin + block, rows);
    int64_t at = begin;
    while (at < end) {
      int64_t stop = end;
      for (int64_t i = 0; i < count; ++i) {
        if (without[i] >= at && without[i] < stop) stop = without[i];
      }
      float here = kLowest;
      for (int64_t i = at; i < stop; ++i) here = scores[i] > here ? scores[i] : here;
      if (here > largest) {
        largest = here;
        while (scores[at] != here) ++at;
        found = at;
      }
      at = stop + 1;
    }
  }
  return found;
}

// How many of the bytes before byte j of a value are the text's, up to four.
GHOST_INLINE int agreeing(uint32_t context, uint32_t recent, int64_t j) {
  const uint32_t difference = context ^ recent;
  const int same = difference ? __builtin_ctz(difference) >> 3 : 4;
  return static_cast<int64_t>(same) < j ? same : static_cast<int>(j);
}

// fn(position, j, k, row) for every position that is inside its candidate's value; other(position) for the
// rest. A position is j * count + k.
template <class Fn, class Other>
GHOST_INLINE void for_positions(const FactPlace& place, Fn&& fn, Other&& other) {
  for (int64_t j = 0; j < place.width; ++j) {
    for (int64_t k = 0; k < place.count; ++k) {
      const int64_t from = k - j * place.count;
      const int64_t row = min_of(max_of<int64_t>(place.candidates[from], 0), place.rows - 1);
      if (j < place.length[row]) {
        fn(j * place.count + k, j, from, row * place.width + j);
      } else {
        other(j * place.count + k);
      }
    }
  }
}

// Scores and log masses of all positions, and their bytes.
GHOST_INLINE void score_positions(const FactPlace& place, float* score, float* log_mass, int32_t* byte) {
  for_positions(
      place,
      [&](int64_t at, int64_t j, int64_t from, int64_t flat) {
        const float began = place.began[j];
        const int same = agreeing(place.context[flat], place.recent, j);
        const float log_weight = place.log_weights[from];
        score[at] = place.scale[0] * max_of(began, kFactFloor) + log_weight + place.scale[1 + same];
        log_mass[at] = began + log_weight;
        byte[at] = place.values[flat] & (kFactBytes - 1);
      },
      [&](int64_t at) {
        score[at] = kFactPadding;
        log_mass[at] = kFactPadding;
        byte[at] = 0;
      });
}

void positions(const FactPlace& place, float* copy, float* inside, float* null_inside, float* log_sum) {
  const int64_t n = place.width * place.count;
  float* score = place.work;
  float* mass = score + n;
  auto* byte = reinterpret_cast<int32_t*>(mass + n);
  score_positions(place, score, mass, byte);
  float largest = kLowest;
  for (int64_t i = 0; i < n; ++i) largest = max_of(largest, score[i]);
  F32 total = splat(0.0f);
  F32 total_mass = splat(0.0f);
  for_vectors(n, [&](int64_t i, auto io) {
    io.put(score + i, exp(io.get(score + i) - splat(largest)));
    total = total + io.get(score + i);  // what is past the end reads as zero
    io.put(mass + i, exp(io.get(mass + i)));
    total_mass = total_mass + io.get(mass + i);
  });
  const float all = sum(total);
  const float scale = 1.0f / all;
  for (int64_t i = 0; i < kFactBytes; ++i) copy[i] = 0.0f;
  for (int64_t i = 0; i < n; ++i) copy[byte[i]] += score[i] * scale;
  float of_null = 0.0f;
  for (int64_t j = 0; j < place.width; ++j) of_null += mass[j * place.count];
  *inside = sum(total_mass);
  *null_inside = of_null;
  *log_sum = largest + __builtin_logf(all);
}

void positions_grad(const FactPlace& place, const float* copy, float log_sum, const float* dcopy,
                    float dinside, float dnull_inside, float* dbegan, float* dlog_weights, float* dscale) {
  const int64_t n = place.width * place.count;
  float* weight = place.work;
  float* mass = weight + n;
  auto* byte = reinterpret_cast<int32_t*>(mass + n);
  score_positions(place, weight, mass, byte);
  for_vectors(n, [&](int64_t i, auto io) {
    io.put(weight + i, exp(io.get(weight + i) - splat(log_sum)));
    io.put(mass + i, exp(io.get(mass + i)));
  });
  F32 dot = splat(0.0f);
  for_vectors(kFactBytes, [&](int64_t i, auto io) { dot = fma(io.get(copy + i), io.get(dcopy + i), dot); });
  const float mean = sum(dot);
  for (int64_t j = 0; j < place.width; ++j) dbegan[j] = 0.0f;
  for_positions(
      place,
      [&](int64_t at, int64_t j, int64_t from, int64_t flat) {
        const float began = place.began[j];
        const float dscore = weight[at] * (dcopy[byte[at]] - mean);
        const float dmass = mass[at] * (dinside + (at == j * place.count ? dnull_inside : 0.0f));
        dlog_weights[from] += dscore + dmass;
        dbegan[j] += dmass + (began > kFactFloor ? place.scale[0] * dscore : 0.0f);
        dscale[0] += dscore * max_of(began, kFactFloor);
        dscale[1 + agreeing(place.context[flat], place.recent, j)] += dscore;
      },
      [](int64_t) {});
}

}  // namespace

extern const FactMemoryKernels fact_memory_table{norms, scores, scores_grad, best, positions, positions_grad};

}  // namespace ghost::GHOST_ISA
