#pragma once

#include "common/primitive.h"

namespace ghost {

// What the composed forms need to know of ragged sequences, from cu_seqlens (batch + 1,) int32 and the row
// count.
struct SequenceIndex {
  SequenceIndex(const mx::array& cu_seqlens, int total, mx::Stream s);

  mx::array starts;    // (batch,) first row of each sequence
  mx::array lengths;   // (batch,)
  mx::array sequence;  // (total,) which sequence a row belongs to; 0 for rows of none
  mx::array start;     // (total,) first row of that sequence
  mx::array position;  // (total,) row minus start
  mx::array inside;    // (total,) false for rows of no sequence

 private:
  struct Clamped {
    mx::array cu;
  };
  SequenceIndex(const Clamped& boundaries, int total, mx::Stream s);
};

}  // namespace ghost
