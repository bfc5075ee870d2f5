#pragma once

#include <metal_atomic>

#include "common/elements.h"
#include "common/unroll.h"
#include "skip_gather/params.h"

constant constexpr const int kGroups = SkipGatherLayout::groups;
constant constexpr const int kFlight = SkipGatherLayout::rows_in_flight;

// inverse[row] = -1: no entry names the row.
[[kernel]] void skip_gather_clear(device int* inverse [[buffer(0)]],
                                  constant SkipGatherParams& p [[buffer(1)]],
                                  uint3 at [[thread_position_in_grid]]) {
  if (int(at.x) < p.rows) inverse[at.x] = -1;
}

// inverse[row] = the last entry that names the row. The largest of integers is the same in any order. Indices
// that are no row are dropped here, and looked at again before anything is read by them.
[[kernel]] void skip_gather_invert(const device int* indices [[buffer(0)]],
                                   device atomic_int* inverse [[buffer(1)]],
                                   constant SkipGatherParams& p [[buffer(2)]],
                                   uint3 at [[thread_position_in_grid]]) {
  const int entry = int(at.x);
  if (entry >= p.n) return;
  const int row = indices[entry];
  if (row >= 0 && row < p.rows) atomic_fetch_max_explicit(&inverse[row], entry, memory_order_relaxed);
}

// to[i] = from[source[i]] for the kFlight rows i from `first` that are before `stop`; zero where the source
// is no row below `rows`.
template <typename T, int N>
METAL_FUNC void gather_rows(const device T* from, const device int* source, device T* to, int first, int stop,
                            int rows, int dim, uint lane) {
  typedef Elements<T, N> IO;
  int row[kFlight];
  GHOST_UNROLL
  for (int i = 0; i < kFlight; ++i) row[i] = first + i < stop ? source[first + i] : -1;
  for (int d = int(lane) * N; d < dim; d += 32 * N) {
    typename IO::Raw raw[kFlight];
    GHOST_UNROLL
    for (int i = 0; i < kFlight; ++i) {
      const bool there = row[i] >= 0 && row[i] < rows;
      raw[i] = there ? IO::fetch(from + size_t(row[i]) * dim + d) : IO::zero();
    }
    GHOST_UNROLL
    for (int i = 0; i < kFlight; ++i) {
      if (first + i < stop) IO::put(to + size_t(first + i) * dim + d, raw[i]);
    }
  }
}

// y (n, dim) from x (rows, dim). A SIMD-group has kFlight entries.
template <typename T>
[[kernel]] void skip_gather_fwd(const device T* x [[buffer(0)]], const device int* indices [[buffer(1)]],
                                device T* y [[buffer(2)]], constant SkipGatherParams& p [[buffer(3)]],
                                uint3 group [[threadgroup_position_in_grid]],
                                uint simdgroup [[simdgroup_index_in_threadgroup]],
                                uint lane [[thread_index_in_simdgroup]]) {
  const int first = (int(group.x) * kGroups + int(simdgroup)) * kFlight;
  if (p.vector16) {
    gather_rows<T, Pack<T>::size>(x, indices, y, first, p.n, p.rows, p.dim, lane);
  } else {
    gather_rows<T, 1>(x, indices, y, first, p.n, p.rows, p.dim, lane);
  }
}

// Copies those of kFlight rows that no entry names.
template <typename T, int N>
METAL_FUNC void copy_rows(const device T* from, const device int* inverse, device T* to, int first, int rows,
                          int dim, uint lane) {
  typedef Elements<T, N> IO;
  bool mine[kFlight];
  GHOST_UNROLL
  for (int i = 0; i < kFlight; ++i) mine[i] = first + i < rows && inverse[first + i] < 0;
  for (int d = int(lane) * N; d < dim; d += 32 * N) {
    typename IO::Raw raw[kFlight];
    GHOST_UNROLL
    for (int i = 0; i < kFlight; ++i) {
      if (mine[i]) raw[i] = IO::fetch(from + size_t(first + i) * dim + d);
    }
    GHOST_UNROLL
    for (int i = 0; i < kFlight; ++i) {
      if (mine[i]) IO::put(to + size_t(first + i) * dim + d, raw[i]);
    }
  }
}

template <typename T>
METAL_FUNC void copy_rows(const device T* from, const device int* inverse, device T* to, int first,
                          constant SkipGatherParams& p, uint lane) {
  if (p.vector16) {
    copy_rows<T, Pack<T>::size>(from, inverse, to, first, p.rows, p.dim, lane);
  } else {
    copy_rows<T, 1>(from, inverse, to, first, p.rows, p.dim, lane);
  }
}

// The row that an entry changes, or -1: no row, or one that a later entry names too.
METAL_FUNC int changed_row(const device int* indices, const device int* inverse, int entry,
                           constant SkipGatherParams& p) {
  const int row = indices[entry];
  if (row < 0 || row >= p.rows) return -1;
  return inverse[row] == entry ? row : -1;
}

// to = from over one row; zero where from is not `there`.
template <typename T, int N>
METAL_FUNC void copy_row(bool there, const device T* from, device T* to, int dim, uint lane) {
  typedef Elements<T, N> IO;
  for (int d = int(lane) * N; d < dim; d += 32 * N) {
    IO::put(to + d, there ? IO::fetch(from + d) : IO::zero());
  }
}

template <typename T>
METAL_FUNC void copy_row(bool there, const device T* from, device T* to, constant SkipGatherParams& p,
                         uint lane) {
  if (p.vector16) {
    copy_row<T, Pack<T>::size>(there, from, to, p.dim, lane);
  } else {
    copy_row<T, 1>(there, from, to, p.dim, lane);
  }
}

// out = x + gate * (y - x) over one row, and the difference where it is saved. out may be x.
template <typename T, int N>
METAL_FUNC void blend_row(const device T* x, const device T* y, float gate, device T* out,
                          device float* difference, bool saves, int dim, uint lane) {
  typedef Elements<T, N> IO;
  for (int d = int(lane) * N; d < dim; d += 32 * N) {
    float from[N];
    float step[N];
    IO::unpack(IO::fetch(x + d), from);
    IO::unpack(IO::fetch(y + d), step);
    GHOST_UNROLL
    for (int i = 0; i < N; ++i) {
      step[i] -= from[i];
      from[i] = fma(gate, step[i], from[i]);
    }
    IO::put(out + d, IO::pack(from));
    if (saves) Elements<float, N>::put(difference + d, Elements<float, N>::pack(step));
  }
}

// out (rows, dim) and the saved difference (n, dim). The first copy_groups SIMD-groups copy kFlight rows
// each, those after them have an entry each. out may be x.
template <typename T>
[[kernel]] void skip_gather_scatter(
    const device T* x [[buffer(0)]], const device T* y [[buffer(1)]], const device int* indices [[buffer(2)]],
    const device int* inverse [[buffer(3)]], const device float* gate [[buffer(4)]],
    device T* out [[buffer(5)]], device float* difference [[buffer(6)]],
    constant SkipGatherParams& p [[buffer(7)]], uint3 group [[threadgroup_position_in_grid]],
    uint simdgroup [[simdgroup_index_in_threadgroup]], uint lane [[thread_index_in_simdgroup]]) {
  const int unit = int(group.x) * kGroups + int(simdgroup);
  if (unit < p.copy_groups) {
    copy_rows(x, inverse, out, unit * kFlight, p, lane);
    return;
  }
  const int entry = unit - p.copy_groups;
  if (entry >= p.n) return;
  const int row = changed_row(indices, inverse, entry, p);
  const size_t at = size_t(max(row, 0)) * p.dim;
  const size_t from = size_t(entry) * p.dim;
  if (row < 0) {
    // Nobody reads the difference of an entry that changes nothing, but outputs are always defined.
    if (p.saves) {
      for (int d = int(lane); d < p.dim; d += 32) difference[from + d] = 0.0f;
    }
  } else if (!p.gated) {
    copy_row(true, y + from, out + at, p, lane);
  } else if (p.vector4) {
    blend_row<T, 4>(x + at, y + from, gate[entry], out + at, difference + from, p.saves, p.dim, lane);
  } else {
    blend_row<T, 1>(x + at, y + from, gate[entry], out + at, difference + from, p.saves, p.dim, lane);
  }
}

// dy = gate * dout and dx = (1 - gate) * dout over one row; returns the sum of dout * difference. dx may be
// dout.
template <typename T, int N>
METAL_FUNC float blend_row_grad(const device T* dout, const device float* difference, float gate,
                                device T* dx, device T* dy, int dim, uint lane) {
  typedef Elements<T, N> IO;
  float dot = 0.0f;
  for (int d = int(lane) * N; d < dim; d += 32 * N) {
    float v[N];
    float step[N];
    float kept[N];
    IO::unpack(IO::fetch(dout + d), v);
    Elements<float, N>::unpack(Elements<float, N>::fetch(difference + d), step);
    GHOST_UNROLL
    for (int i = 0; i < N; ++i) {
      dot = fma(v[i], step[i], dot);
      kept[i] = (1.0f - gate) * v[i];
      v[i] *= gate;
    }
    IO::put(dx + d, IO::pack(kept));
    IO::put(dy + d, IO::pack(v));
  }
  return simd_sum(dot);
}

// dx (rows, dim), dy (n, dim) and dgate (n). SIMD-groups as in skip_gather_scatter. dx may be dout.
template <typename T>
[[kernel]] void skip_gather_scatter_bwd(
    const device T* dout [[buffer(0)]], const device int* indices [[buffer(1)]],
    const device int* inverse [[buffer(2)]], const device float* gate [[buffer(3)]],
    const device float* difference [[buffer(4)]], device T* dx [[buffer(5)]], device T* dy [[buffer(6)]],
    device float* dgate [[buffer(7)]], constant SkipGatherParams& p [[buffer(8)]],
    uint3 group [[threadgroup_position_in_grid]], uint simdgroup [[simdgroup_index_in_threadgroup]],
    uint lane [[thread_index_in_simdgroup]]) {
  const int unit = int(group.x) * kGroups + int(simdgroup);
  if (unit < p.copy_groups) {
    copy_rows(dout, inverse, dx, unit * kFlight, p, lane);
    return;
  }
  const int entry = unit - p.copy_groups;
  if (entry >= p.n) return;
  const int row = changed_row(indices, inverse, entry, p);
  const size_t at = size_t(max(row, 0)) * p.dim;
  const size_t from = size_t(entry) * p.dim;
  float dot = 0.0f;
  if (row < 0 || !p.gated) {
    copy_row(row >= 0, dout + at, dy + from, p, lane);
    // Buffers are compiled as if they never overlapped, and dx may be dout.
    simdgroup_barrier(mem_flags::mem_device);
    if (row >= 0) copy_row(false, dout + at, dx + at, p, lane);
  } else if (p.vector4) {
    dot = blend_row_grad<T, 4>(dout + at, difference + from, gate[entry], dx + at, dy + from, p.dim, lane);
  } else {
    dot = blend_row_grad<T, 1>(dout + at, difference + from, gate[entry], dx + at, dy + from, p.dim, lane);
  }
  if (p.gated && lane == 0) dgate[entry] = dot;
}
