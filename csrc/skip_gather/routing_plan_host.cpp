#include "skip_gather/routing_plan_host.h"

#include <algorithm>
#include <utility>

#include "common/parallel.h"
#include "common/sequences.h"

namespace ghost {
namespace {

constexpr int64_t kTileRows = 16384;  // mask bytes per task
constexpr int kBuffer = 1024;         // compacted indices leave a tile in pieces of this size

std::vector<Span> spans_of(const mlx::core::array& mask, const mlx::core::array* cu_seqlens) {
  const auto total = static_cast<int64_t>(mask.size());
  if (cu_seqlens) {
    return ragged_spans(cu_seqlens->data<int32_t>(), static_cast<int64_t>(cu_seqlens->size()) - 1, total);
  }
  return mask.ndim() == 2 ? equal_spans(mask.shape(0), mask.shape(1)) : equal_spans(1, total);
}

// Calls fn for every tile. No more rows than one tile may hold are not worth waking other threads for.
template <class Fn>
void for_tiles(size_t tiles, int64_t rows, Fn fn) {
  parallel_for_if(rows > kTileRows, static_cast<int64_t>(tiles),
                  [&](int64_t i) { fn(static_cast<size_t>(i)); });
}

}  // namespace

HostPlan::HostPlan(const mlx::core::array& mask, const mlx::core::array* cu_seqlens)
    : mask_(mask.data<bool>()), total_(static_cast<int64_t>(mask.size())) {
  const std::vector<Span> spans = spans_of(mask, cu_seqlens);
  cu_seqlens_.resize(spans.size() + 1);
  for (size_t b = 0; b < spans.size(); ++b) {
    for (int64_t t = spans[b].begin; t < spans[b].end; t += kTileRows) {
      tiles_.push_back({static_cast<int64_t>(b), t, std::min(t + kTileRows, spans[b].end)});
    }
  }
  before_.resize(tiles_.size());
  for_tiles(tiles_.size(), total_, [&](size_t i) {
    int32_t set = 0;
    for (int64_t t = tiles_[i].begin; t < tiles_[i].end; ++t) set += mask_[t] ? 1 : 0;
    before_[i] = set;
  });
  int32_t running = 0;
  size_t i = 0;
  for (size_t b = 0; b < spans.size(); ++b) {
    cu_seqlens_[b] = running;
    for (; i < tiles_.size() && tiles_[i].sequence == static_cast<int64_t>(b); ++i) {
      running += std::exchange(before_[i], running);
    }
  }
  cu_seqlens_.back() = running;
}

// Writes the rows set in a tile to indices[offset...], no further than `capacity`. The store is
// unconditional and the position advances by the mask, so the loop has no branch to mispredict.
void HostPlan::compact(const Tile& tile, int64_t offset, int64_t capacity, int32_t* indices) const {
  int32_t buffer[kBuffer + 1];
  for (int64_t t0 = tile.begin; t0 < tile.end && offset < capacity; t0 += kBuffer) {
    const int64_t t1 = std::min(t0 + kBuffer, tile.end);
    int64_t n = 0;
    for (int64_t t = t0; t < t1; ++t) {
      buffer[n] = static_cast<int32_t>(t);
      n += mask_[t] ? 1 : 0;
    }
    std::copy_n(buffer, std::min(n, capacity - offset), indices + offset);
    offset += n;
  }
}

void HostPlan::write(int64_t capacity, int32_t* indices, int32_t* cu_seqlens, int32_t* count) const {
  for_tiles(tiles_.size(), total_, [&](size_t i) { compact(tiles_[i], before_[i], capacity, indices); });
  const int64_t kept = std::min<int64_t>(this->count(), capacity);
  std::fill(indices + kept, indices + capacity, static_cast<int32_t>(total_));
  for (size_t b = 0; b < cu_seqlens_.size(); ++b) {
    cu_seqlens[b] = std::min(cu_seqlens_[b], static_cast<int32_t>(capacity));
  }
  *count = this->count();
}

}  // namespace ghost
