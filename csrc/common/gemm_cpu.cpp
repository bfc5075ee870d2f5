#include <unistd.h>

#include <algorithm>
#include <vector>

#include "common/gemm.h"
#include "common/parallel.h"
#include "common/rounding.h"
#include "common/scratch.h"

namespace ghost {
namespace {

// Sizes in floats, for a 1 MiB second-level cache and 32 KiB or more of first level.
constexpr int64_t kDepthBlock = 256;  // a panel of B this deep stays in a first-level cache of 48 KiB
constexpr int64_t kDeepBlock = 512;   // what is read from the second level anyway moves results half as often
constexpr int64_t kRoundDepth = 512;  // of a round of a small result: its panels stay in the second level
constexpr int64_t kSmallResult = 1 << 19;  // floats of a result that may be added to again and again
constexpr int64_t kPackedB = 1 << 20;      // what one round packs of B
constexpr int64_t kDirectColumns = 128;    // of B up to which A is read as it is, once a column panel
// The same where rows of A are so near that those of a panel do not fall on the same sets of the first level.
constexpr int64_t kNearColumns = 256;
constexpr int64_t kNearRows = 1024;
constexpr int64_t kTurnedRows = 64;    // of A up to which the factors change places
constexpr int64_t kSharedRows = 1024;  // of A up to which all tiles share its panels
// Rows of A that fit into the second level beside panels of B: a task packs B's, once, where it reads them.
constexpr int64_t kStripRows = 512;
constexpr int64_t kTileRows = 256;  // what a task keeps in the second-level cache
constexpr int64_t kTileColumns = 256;
// The same where tasks pack their own panels of A: wider, for they are packed again for every tile of a row.
constexpr int64_t kOwnTileRows = 128;
constexpr int64_t kOwnTileColumns = 512;
constexpr int64_t kPairedSize = 32;         // of every side: below, packing pairs costs what they save
constexpr int64_t kTilesWanted = 16;        // enough to share out evenly
constexpr int64_t kPackDepths = 16;         // depths of all panels packed together
constexpr int64_t kPackElements = 1 << 15;  // elements packed by one task
constexpr int64_t kSplitResult = 1 << 16;   // floats of a result whose depth is split over tasks
constexpr int64_t kSplitSide = 32;          // and its shorter side at least
constexpr int64_t kSplitShares = 8;         // at most
constexpr int64_t kSplitDepth = 512;        // floats of depth a share has at least
constexpr int64_t kSplitBlock = 128;        // depths packed in one go: both operands stay in the second level
constexpr double kParallelWork = 2e6;  // multiply-adds below which waking a thread costs more than it gains

// One operand cut into panels of `stride` outer indices; the last may be narrower. Panel p of a round begins
// at p * stride * depth.
struct Panels {
  const GemmOperand& operand;
  int64_t first;  // outer indices of this round
  int64_t outer;
  int64_t stride;
  int64_t vector;  // 0, or the width of B's last panel is rounded to this
  int64_t k0;
  int64_t depth;
  float* packed;         // null where micro kernels read the operand itself
  bool pairs;            // depths are counted, and lie in panels, as pairs of bfloat16
  bool by_tile = false;  // packed by the task that multiplies it, a block of depth at a time

  int64_t count() const { return ceil_div(outer, stride); }
  int64_t size(int64_t p) const { return std::min(stride, outer - p * stride); }
  int64_t width(int64_t p) const { return vector ? std::min(stride, round_up(size(p), vector)) : stride; }
  const float* at(int64_t p, int64_t k) const {
    if (packed) return packed + p * stride * depth + k * width(p);
    return static_cast<const float*>(operand.data) + (first + p * stride) * operand.outer_stride +
           (k0 + k) * operand.depth_stride;
  }
  int64_t outer_step() const { return packed ? 1 : operand.outer_stride; }
  int64_t depth_step() const { return packed ? stride : operand.depth_stride; }
  // True where memory runs along the outer index: then it is read in order by packing all panels for a few
  // depths at a time.
  bool along_outer() const {
    return operand.type == GemmOperand::Type::codes ? operand.outer_is_columns : operand.depth_stride != 1;
  }
  void pack(int64_t p, int64_t from, int64_t to) const {
    const auto& kernels = gemm_kernels();
    (pairs ? kernels.pack_pairs : kernels.pack)(operand, first + p * stride, static_cast<int>(size(p)),
                                                static_cast<int>(width(p)), k0 + from, k0 + to,
                                                packed + p * stride * depth + from * width(p));
  }
  // What is packed in order of memory: panels, or depths of all panels.
  int64_t pieces() const { return along_outer() ? depth : count(); }
  void pack_pieces(int64_t begin, int64_t end) const {
    if (!along_outer()) {
      for (int64_t p = begin; p < end; ++p) pack(p, 0, depth);
      return;
    }
    for (int64_t k = begin; k < end; k += kPackDepths) {
      for (int64_t p = 0; p < count(); ++p) pack(p, k, std::min(k + kPackDepths, end));
    }
  }
  // The panels of `size` outer indices from `outer0` and `block` depths from k, packed by the calling thread.
  Panels packed_block(Scratch slot, int64_t outer0, int64_t size, int64_t k, int64_t block) const {
    float* to = scratch(slot, static_cast<size_t>(round_up(size, stride) * block));
    const Panels result{operand, first + outer0, size, stride, vector, k0 + k, block, to, pairs};
    result.pack_pieces(0, result.pieces());
    return result;
  }
};

// True where the first-level cache has no room for a panel of B of kDepthBlock: 32 KiB and AVX-512.
bool has_small_cache() {
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  static const int64_t cache = sysconf(_SC_LEVEL1_DCACHE_SIZE);  // -1 or 0 where it is not known
#else
  constexpr int64_t cache = 0;
#endif
  const auto panel = static_cast<int64_t>(sizeof(float)) * 2 * gemm_kernels().width * kDepthBlock;
  return cache > 0 && cache <= panel;
}

// Depths, or pairs of them, that a share of a split product has at least.
int64_t split_depth(bool pairs) { return pairs ? kSplitDepth / 2 : kSplitDepth; }

struct Tiling {
  int64_t a_panels;  // panels a tile spans
  int64_t b_panels;
  int64_t rows;  // tiles
  int64_t columns;
};

Tiling tile(const Panels& a, const Panels& b, bool parallel) {
  const int64_t a_panels = a.count();
  const int64_t a_stride = a.stride;
  const int64_t b_panels = b.count();
  const int64_t b_stride = b.stride;
  const int64_t most_rows = a.by_tile ? kOwnTileRows : kTileRows;
  const int64_t most_columns = a.by_tile ? kOwnTileColumns : kTileColumns;
  const int64_t step = std::max<int64_t>(1, kGemmColumnStep / b_stride);
  if (b.by_tile) return {a_panels, step, 1, ceil_div(b_panels, step)};
  int64_t down = std::min(a_panels, std::max<int64_t>(1, most_rows / a_stride));
  int64_t across = std::min(round_up(b_panels, step), std::max<int64_t>(1, most_columns / b_stride));
  const auto tiles = [&] { return ceil_div(a_panels, down) * ceil_div(b_panels, across); };
  while (parallel && tiles() < kTilesWanted && (down > 2 || across > step)) {
    if (across > step && (across * b_stride > down * a_stride || down <= 2)) {
      across = round_up(ceil_div(across, 2), step);
    } else {
      down = ceil_div(down, 2);
    }
  }
  // Even tiles: none much smaller than the others.
  down = ceil_div(a_panels, ceil_div(a_panels, down));
  return {down, across, ceil_div(a_panels, down), ceil_div(b_panels, across)};
}

struct Round {
  Panels a;
  Panels b;
  float* c;  // of the whole product, or null
  int64_t ldc;
  bool accumulate;  // earlier summands are in c
  bool last;        // no summands follow
};

void multiply_tile(const Round& round, const Tiling& tiling, int64_t index, const GemmEpilogue& epilogue) {
  const auto& kernels = gemm_kernels();
  const GemmMicroKernel* micro = round.a.pairs ? kernels.micro_pairs : kernels.micro;
  const Panels& a = round.a;
  const Panels& b = round.b;
  const int64_t a0 = index / tiling.columns * tiling.a_panels;
  const int64_t b0 = index % tiling.columns * tiling.b_panels;
  const int64_t a1 = std::min(a0 + tiling.a_panels, a.count());
  const int64_t b1 = std::min(b0 + tiling.b_panels, b.count());
  const int64_t row0 = a0 * a.stride;
  const int64_t column0 = b0 * b.stride;
  const int64_t rows = std::min(a1 * a.stride, a.outer) - row0;
  const int64_t columns = std::min(b1 * b.stride, b.outer) - column0;
  const int64_t ldc = round.c ? round.ldc : round_up(columns, kernels.width);
  float* c = round.c ? round.c + (a.first + row0) * ldc + b.first + column0
                     : scratch(Scratch::gemm_tile, static_cast<size_t>(rows * ldc));
  const bool small_cache = has_small_cache();
  const int64_t block = small_cache ? kDeepBlock : kDepthBlock;
  for (int64_t k = 0; k < a.depth; k += block) {
    const int64_t depth = std::min(block, a.depth - k);
    const bool accumulate = k > 0 || (round.c && round.accumulate);
    // The same panels, but of what a task packs itself it has only those of this tile and block.
    const Panels own_a = a.by_tile ? a.packed_block(Scratch::gemm_a, row0, rows, k, depth) : a;
    const Panels own_b = b.by_tile ? b.packed_block(Scratch::gemm_b, column0, columns, k, depth) : b;
    const int64_t p0 = a.by_tile ? a0 : 0;
    const int64_t q0 = b.by_tile ? b0 : 0;
    const int64_t a_k = a.by_tile ? 0 : k;
    const int64_t b_k = b.by_tile ? 0 : k;
    const auto multiply = [&](int64_t p, int64_t q) {
      // A panel that ends with the operand is multiplied by a kernel of just its rows, for it may not be
      // padded.
      const int64_t height = own_a.packed ? a.stride : a.size(p);
      const int64_t vectors = b.width(q) / kernels.width;
      micro[2 * (height - 1) + vectors - 1](
          depth, own_a.at(p - p0, a_k), own_a.outer_step(), own_a.depth_step(), own_b.at(q - q0, b_k),
          c + (p - a0) * a.stride * ldc + (q - b0) * b.stride, ldc, static_cast<int>(a.size(p)),
          static_cast<int>(b.size(q)), accumulate);
    };
    // A panel of B stays in the first-level cache while those of A pass, or the other way round.
    if (small_cache) {
      for (int64_t p = a0; p < a1; ++p) {
        for (int64_t q = b0; q < b1; ++q) multiply(p, q);
      }
    } else {
      for (int64_t q = b0; q < b1; ++q) {
        for (int64_t p = a0; p < a1; ++p) multiply(p, q);
      }
    }
  }
  if (epilogue && (round.last || !round.c))
    epilogue({a.first + row0, rows, b.first + column0, columns, c, ldc});
}

void multiply_round(const Round& round, bool parallel, const GemmEpilogue& epilogue) {
  const Tiling tiling = tile(round.a, round.b, parallel);
  parallel_for_if(parallel, tiling.rows * tiling.columns,
                  [&](int64_t i) { multiply_tile(round, tiling, i, epilogue); });
}

// Packs up to two operands, in shares of whole panels or of depths [begin, end) of all panels.
void pack(std::initializer_list<const Panels*> operands, bool parallel) {
  struct Share {
    const Panels* panels;
    int64_t begin;
    int64_t end;
    float place;  // in its operand
  };
  std::vector<Share> shares;
  for (const Panels* panels : operands) {
    if (!panels->packed) continue;
    const int64_t total = panels->pieces();
    const int64_t elements = panels->along_outer() ? panels->outer : panels->stride * panels->depth;
    const int64_t each = std::max<int64_t>(1, kPackElements / elements);
    for (int64_t i = 0; i < total; i += each) {
      shares.push_back(
          {panels, i, std::min(i + each, total), static_cast<float>(i) / static_cast<float>(total)});
    }
  }
  // Threads take neighbouring shares: those of the rows of A that they will multiply, not all of one operand.
  if (parallel) {
    std::stable_sort(shares.begin(), shares.end(),
                     [](const Share& x, const Share& y) { return x.place < y.place; });
  }
  parallel_for_if(parallel, static_cast<int64_t>(shares.size()), [&](int64_t i) {
    const Share& share = shares[static_cast<size_t>(i)];
    share.panels->pack_pieces(share.begin, share.end);
  });
}

void empty_sum(int64_t rows, int64_t columns, float* c, const GemmEpilogue& epilogue) {
  std::vector<float> zeros(static_cast<size_t>(columns), 0.0f);
  for (int64_t i = 0; i < rows; ++i) {
    if (c) std::copy(zeros.begin(), zeros.end(), c + i * columns);
    if (epilogue) epilogue({i, 1, 0, columns, zeros.data(), columns});
  }
}

// C^T = B A^T: with few rows it is cheaper to turn the result round than to pack the larger factor.
void gemm_turned(const GemmOperand& a, const GemmOperand& b, int64_t depth, float* c,
                 const GemmEpilogue& epilogue, GemmPrecision precision) {
  const int64_t rows = a.outer;
  const int64_t columns = b.outer;
  const auto size = static_cast<size_t>(rows * columns);
  float* turned = scratch(Scratch::gemm_transposed, c ? size : 2 * size);
  gemm(b, a, depth, turned, {}, precision);
  if (!c) c = turned + size;
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < columns; ++j) c[i * columns + j] = turned[j * rows + i];
  }
  if (epilogue) epilogue({0, rows, 0, columns, c, columns});
}

// Small results of much depth: a task packs and multiplies a share of the depth alone, so that nothing is
// waited for, and no operand read, twice. The shares are added up in their order.
void gemm_split(const GemmOperand& a, const GemmOperand& b, int64_t depth, bool pairs, float* c,
                const GemmEpilogue& epilogue) {
  const auto& kernels = gemm_kernels();
  const GemmMicroKernel* micro = pairs ? kernels.micro_pairs : kernels.micro;
  const int64_t rows = a.outer;
  const int64_t columns = b.outer;
  const int64_t size = rows * columns;
  const int64_t a_stride = ceil_div(rows, ceil_div(rows, kernels.max_rows));
  const int64_t b_stride = 2 * kernels.width;
  const int64_t shares = std::min(kSplitShares, depth / split_depth(pairs));
  const int64_t each = round_up(ceil_div(depth, shares), kSplitBlock);
  // The first share goes where the result will be.
  float* sums = scratch(Scratch::gemm_tile, static_cast<size_t>((shares - (c ? 1 : 0)) * size));
  float* rest = c ? sums : sums + size;
  if (!c) c = sums;
  parallel_for(shares, [&](int64_t share) {
    float* to = share == 0 ? c : rest + (share - 1) * size;
    float* a_packed = scratch(Scratch::gemm_a, static_cast<size_t>(round_up(rows, a_stride) * kSplitBlock));
    float* b_packed =
        scratch(Scratch::gemm_b, static_cast<size_t>(round_up(columns, b_stride) * kSplitBlock));
    const int64_t first = std::min(share * each, depth);
    const int64_t last = std::min(first + each, depth);
    if (first == last) std::fill_n(to, size, 0.0f);
    for (int64_t k = first; k < last; k += kSplitBlock) {
      const int64_t block = std::min(kSplitBlock, last - k);
      const Panels pa{a, 0, rows, a_stride, 0, k, block, a_packed, pairs};
      const Panels pb{b, 0, columns, b_stride, kernels.width, k, block, b_packed, pairs};
      pa.pack_pieces(0, pa.pieces());
      pb.pack_pieces(0, pb.pieces());
      for (int64_t q = 0; q < pb.count(); ++q) {
        const int64_t vectors = pb.width(q) / kernels.width;
        for (int64_t p = 0; p < pa.count(); ++p) {
          micro[2 * (a_stride - 1) + vectors - 1](
              block, pa.at(p, 0), 1, a_stride, pb.at(q, 0), to + p * a_stride * columns + q * b_stride,
              columns, static_cast<int>(pa.size(p)), static_cast<int>(pb.size(q)), k > first);
        }
      }
    }
  });
  const int64_t tile_rows = ceil_div(rows, kTilesWanted);
  parallel_for(ceil_div(rows, tile_rows), [&](int64_t i) {
    const int64_t row0 = i * tile_rows;
    const int64_t count = std::min(tile_rows, rows - row0);
    float* to = c + row0 * columns;
    for (int64_t share = 1; share < shares; ++share) {
      const float* from = rest + (share - 1) * size + row0 * columns;
      for (int64_t j = 0; j < count * columns; ++j) to[j] += from[j];
    }
    if (epilogue) epilogue({row0, count, 0, columns, to, columns});
  });
}

template <class T>
void gemm_half(const GemmOperand& a, const GemmOperand& b, int64_t depth, T* c, GemmPrecision precision) {
  const int64_t columns = b.outer;
  float* sums =
      depth > kGemmDepth ? scratch(Scratch::product, static_cast<size_t>(a.outer * columns)) : nullptr;
  const auto store = [&](const GemmTile& tile) {
    for (int64_t i = 0; i < tile.rows; ++i) {
      convert(tile.c + i * tile.ldc, c + (tile.row0 + i) * columns + tile.column0, tile.columns);
    }
  };
  gemm(a, b, depth, sums, store, precision);
}

}  // namespace

bool gemm_rounds(int64_t rows, int64_t columns, int64_t depth) {
  return gemm_kernels().micro_pairs && std::min({rows, columns, depth}) >= kPairedSize;
}

void gemm(GemmOperand a, GemmOperand b, int64_t depth, float* c, const GemmEpilogue& epilogue,
          GemmPrecision precision) {
  const int64_t rows = a.outer;
  const int64_t columns = b.outer;
  if (rows == 0 || columns == 0) return;
  if (depth == 0) return empty_sum(rows, columns, c, epilogue);
  if (rows <= kTurnedRows && columns > kDirectColumns && b.type == GemmOperand::Type::f32) {
    return gemm_turned(a, b, depth, c, epilogue, precision);
  }
  const auto& kernels = gemm_kernels();
  const bool parallel =
      static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(depth) >= kParallelWork;
  const bool pairs = precision == GemmPrecision::bfloat16 && gemm_rounds(rows, columns, depth);
  if (pairs) {
    a.depth = b.depth = depth;
    depth = ceil_div(depth, 2);
  }
  if (parallel && rows * columns <= kSplitResult && std::min(rows, columns) >= kSplitSide &&
      depth >= 2 * split_depth(pairs)) {
    return gemm_split(a, b, depth, pairs, c, epilogue);
  }
  // Panels of A as even as can be: 16 rows are two panels of 8, not 14 and 2.
  const int64_t a_stride = ceil_div(rows, ceil_div(rows, kernels.max_rows));
  const int64_t b_stride = 2 * kernels.width;
  const bool near = a.depth_stride == 1 && a.outer_stride < kNearRows;
  const bool direct =
      !pairs && a.type == GemmOperand::Type::f32 && columns <= (near ? kNearColumns : kDirectColumns);
  const bool own_a = !direct && rows > kSharedRows;
  // Strips of columns, where there are enough of them for all threads.
  const bool own_b = parallel && !direct && rows <= kStripRows &&
                     ceil_div(columns, kGemmColumnStep) >= int64_t{2} * num_threads();
  const bool in_rounds = !own_b && c && rows * columns <= kSmallResult;
  const int64_t deepest = std::min(depth, in_rounds ? kRoundDepth : kGemmDepth);
  const int64_t round_columns =
      std::min(round_up(columns, b_stride),
               own_b ? columns : std::max(kTileColumns, kPackedB / deepest / kTileColumns * kTileColumns));
  float* a_packed = direct || own_a
                        ? nullptr
                        : scratch(Scratch::gemm_a, static_cast<size_t>(round_up(rows, a_stride) * deepest));
  float* b_packed = own_b ? nullptr : scratch(Scratch::gemm_b, static_cast<size_t>(round_columns * deepest));

  for (int64_t k0 = 0; k0 < depth; k0 += deepest) {
    const int64_t k_count = std::min(deepest, depth - k0);
    const Panels pa{a, 0, rows, a_stride, 0, k0, k_count, a_packed, pairs, own_a};
    for (int64_t j0 = 0; j0 < columns; j0 += round_columns) {
      const Panels pb{
          b,     j0,   std::min(round_columns, columns - j0), b_stride, kernels.width, k0, k_count, b_packed,
          pairs, own_b};
      j0 == 0 ? pack({&pa, &pb}, parallel) : pack({&pb}, parallel);
      multiply_round({pa, pb, c, columns, k0 > 0, k0 + k_count == depth}, parallel, epilogue);
    }
  }
}

void gemm(const GemmOperand& a, const GemmOperand& b, int64_t depth, float* c, GemmPrecision precision) {
  gemm(a, b, depth, c, {}, precision);
}
void gemm(const GemmOperand& a, const GemmOperand& b, int64_t depth, float16* c, GemmPrecision precision) {
  gemm_half(a, b, depth, c, precision);
}
void gemm(const GemmOperand& a, const GemmOperand& b, int64_t depth, bfloat16* c, GemmPrecision precision) {
  gemm_half(a, b, depth, c, precision);
}

void convert(const float* from, float* to, int64_t n) { std::copy(from, from + n, to); }
void convert(const float* from, float16* to, int64_t n) { gemm_kernels().to_f16(from, to, n); }
void convert(const float* from, bfloat16* to, int64_t n) { gemm_kernels().to_bf16(from, to, n); }

void convert(const float16* from, float* to, int64_t n) { gemm_kernels().from_f16(from, to, n); }
void convert(const bfloat16* from, float* to, int64_t n) { gemm_kernels().from_bf16(from, to, n); }

}  // namespace ghost
