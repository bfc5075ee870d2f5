#pragma once

#include <cstdint>
#include <vector>

#include "mlx/array.h"

namespace ghost {

// A routing plan made by the host from a mask that is evaluated: how many rows are set before each tile of
// the mask and before each sequence. The mask must outlive the plan.
class HostPlan {
 public:
  // mask as of routing_plan, and its cu_seqlens or null.
  HostPlan(const mlx::core::array& mask, const mlx::core::array* cu_seqlens);

  int32_t count() const { return cu_seqlens_.back(); }
  size_t boundaries() const { return cu_seqlens_.size(); }

  // The outputs of the primitive: indices (capacity,), cu_seqlens (boundaries,), count.
  void write(int64_t capacity, int32_t* indices, int32_t* cu_seqlens, int32_t* count) const;

 private:
  // Consecutive mask rows [begin, end) of one sequence.
  struct Tile {
    int64_t sequence;
    int64_t begin;
    int64_t end;
  };

  void compact(const Tile& tile, int64_t offset, int64_t capacity, int32_t* indices) const;

  const bool* mask_;
  int64_t total_;
  std::vector<Tile> tiles_;
  std::vector<int32_t> before_;      // per tile
  std::vector<int32_t> cu_seqlens_;  // (batch + 1,)
};

}  // namespace ghost
