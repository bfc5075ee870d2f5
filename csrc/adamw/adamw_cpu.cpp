#include <algorithm>
#include <cmath>
#include <vector>

#include "adamw/adamw.h"
#include "adamw/adamw_kernels.h"
#include "common/parallel.h"

namespace ghost {
namespace {

constexpr int64_t kTile = 16384;  // elements per task
constexpr float kZeros[kTile] = {};

struct Tile {
  size_t array;
  int64_t begin;
  int64_t length;
};

// All elements of the first n arrays, cut into tasks.
std::vector<Tile> tiles_of(const Arrays& arrays, size_t n) {
  std::vector<Tile> tiles;
  for (size_t i = 0; i < n; ++i) {
    const auto size = static_cast<int64_t>(arrays[i].size());
    for (int64_t at = 0; at < size; at += kTile) tiles.push_back({i, at, std::min(kTile, size - at)});
  }
  return tiles;
}

}  // namespace

// Each output takes the memory of the input it follows from, where nobody else will read that.
void AdamW::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  const size_t n = inputs.size() / 4;
  for (size_t i = 0; i < outputs.size(); ++i) {
    const mx::array& old = inputs[i < n ? i : n + i];  // past the gradients
    if (old.is_donatable()) {
      outputs[i].copy_shared_buffer(old);
    } else {
      outputs[i].set_data(mx::allocator::malloc(outputs[i].nbytes()));
    }
  }
  Arrays arrays;
  for (const auto& list : {inputs, outputs}) {
    for (const auto& x : list) arrays.push_back(mx::array::unsafe_weak_copy(x));
  }
  mx::cpu::get_command_encoder(stream()).dispatch(
      [arrays = std::move(arrays), n, options = options_]() mutable {
        const float* factors = arrays[4 * n].data<float>();
        const AdamWFactors f{factors[0],    factors[1],    factors[2], factors[3],
                             options.beta1, options.beta2, options.eps};
        const auto tiles = tiles_of(arrays, n);
        const auto update = adamw_kernels().update;
        parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t i) {
          const Tile& tile = tiles[static_cast<size_t>(i)];
          const auto at = [&](size_t list) { return arrays[list].data<float>() + tile.begin; };
          const size_t a = tile.array;
          const size_t out = 4 * n + 1 + a;
          const bool single = arrays[n + a].size() < arrays[a].size();
          update(f, at(a), single ? kZeros : at(n + a), at(2 * n + a), at(3 * n + a), at(out), at(out + n),
                 at(out + 2 * n), tile.length);
        });
      });
}

void GlobalNorm::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    const auto tiles = tiles_of(in, in.size());
    std::vector<float> sums(tiles.size());
    const auto sum_squares = adamw_kernels().sum_squares;
    parallel_for(static_cast<int64_t>(tiles.size()), [&](int64_t i) {
      const Tile& tile = tiles[static_cast<size_t>(i)];
      sums[static_cast<size_t>(i)] = sum_squares(in[tile.array].data<float>() + tile.begin, tile.length);
    });
    double total = 0.0;
    for (const float x : sums) total += x;
    out[0].data<float>()[0] = static_cast<float>(std::sqrt(total));
  });
}

}  // namespace ghost
