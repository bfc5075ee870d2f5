#include <algorithm>
#include <chrono>
#include <stdexcept>
#include <vector>

#include "common/parallel.h"
#include "common/roofline.h"
#include "common/roofline_kernels.h"

namespace ghost {
namespace {

constexpr double kRound = 2e-3;  // seconds: long beside waking threads, short beside what else machines do
constexpr int64_t kLineFloats = 16;

double seconds_of(auto&& run) {
  const auto begin = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The shortest time of run(repeats) for one repeat, with repeats such that a run takes about kRound.
double shortest(double seconds, auto&& run) {
  int64_t repeats = 1;
  double once = seconds_of([&] { run(repeats); });
  while (once < kRound && repeats < (int64_t{1} << 40)) {
    repeats *= 2;
    once = seconds_of([&] { run(repeats); });
  }
  double best = once, spent = 0;
  while (spent < seconds) {
    const double now = seconds_of([&] { run(repeats); });
    best = std::min(best, now);
    spent += now;
  }
  return best / static_cast<double>(repeats);
}

void check_seconds(const char* name, double seconds) {
  if (!(seconds >= 0 && seconds <= 60)) {
    throw std::invalid_argument("[" + std::string(name) + "] wrong time, given " + std::to_string(seconds) +
                                " seconds, allowed: 0 to 60.");
  }
}

}  // namespace

std::optional<double> measure_peak(const std::string& kind, double seconds) {
  check_seconds("measure_peak", seconds);
  const RooflineKernels& kernels = roofline_kernels();
  float (*multiply)(int64_t) = nullptr;
  int64_t flops = 0;
  if (kind == "float32") {
    multiply = kernels.multiply_f32;
    flops = kernels.flops_f32;
  } else if (kind == "bfloat16") {
    multiply = kernels.multiply_bf16;
    flops = kernels.flops_bf16;
  } else if (kind == "int8") {
    multiply = kernels.multiply_int8;
    flops = kernels.flops_int8;
  } else {
    throw std::invalid_argument("[measure_peak] unknown kind, given '" + kind +
                                "', allowed: float32, bfloat16, int8.");
  }
  if (!multiply) return std::nullopt;
  const int threads = num_threads();
  std::vector<float> results(static_cast<size_t>(threads) * kLineFloats);  // a line each: no sharing
  const double step = shortest(seconds, [&](int64_t repeats) {
    parallel_for(threads,
                 [&](int64_t i) { results[static_cast<size_t>(i * kLineFloats)] = multiply(256 * repeats); });
  });
  return static_cast<double>(flops) * 256 * threads / step;
}

double measure_bandwidth(int64_t bytes, double seconds) {
  check_seconds("measure_bandwidth", seconds);
  const int threads = num_threads();
  const int64_t unit = 128 * kLineFloats;  // floats: parts are whole lines and whole turns of every kernel
  const int64_t part = bytes / 4 / threads / unit * unit;
  if (part == 0 || bytes > (int64_t{1} << 34)) {
    throw std::invalid_argument("[measure_bandwidth] wrong size, given " + std::to_string(bytes) +
                                " bytes, allowed: " + std::to_string(4 * unit * threads) + " to 2^34.");
  }
  const RooflineKernels& kernels = roofline_kernels();
  std::vector<float> data(static_cast<size_t>(part * threads), 1.0f);
  std::vector<float> results(static_cast<size_t>(threads) * kLineFloats);
  const double once = shortest(seconds, [&](int64_t repeats) {
    parallel_for(threads, [&](int64_t i) {
      for (int64_t r = 0; r < repeats; ++r)
        results[static_cast<size_t>(i * kLineFloats)] += kernels.read(data.data() + i * part, part);
    });
  });
  return 4.0 * static_cast<double>(part * threads) / once;
}

}  // namespace ghost
