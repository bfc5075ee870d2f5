#include <cstring>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "skip_gather/skip_gather.h"
#include "skip_gather/skip_gather_kernels.h"

namespace ghost {
namespace {

constexpr int64_t kTileBytes = 128 * 1024;  // read per task, so that a task outweighs handing it out

// fn(row) for all rows, in tiles of kTileBytes.
template <class Fn>
void for_rows(int64_t rows, size_t row_bytes, Fn fn) {
  const int64_t tile =
      std::max<int64_t>(1, kTileBytes / std::max<int64_t>(1, static_cast<int64_t>(row_bytes)));
  parallel_for((rows + tile - 1) / tile, [&](int64_t i) {
    const int64_t end = std::min(rows, (i + 1) * tile);
    for (int64_t row = i * tile; row < end; ++row) fn(row);
  });
}

// For each row the entry of the plan that names it, the last one if there are several, or -1. Indices out of
// range are dropped here and nowhere else, so no kernel below can leave its operands.
std::vector<int32_t> inverse_of(const mx::array& indices, int64_t rows) {
  std::vector<int32_t> inverse(static_cast<size_t>(rows), -1);
  const int32_t* index = indices.data<int32_t>();
  for (int32_t i = 0; i < indices.shape(0); ++i) {
    if (index[i] >= 0 && index[i] < rows) inverse[static_cast<size_t>(index[i])] = i;
  }
  return inverse;
}

template <class T>
void gather(const Arrays& in, mx::array& y) {
  const int64_t rows = row_count(in[0]);
  const int64_t dim = y.shape(1);
  const size_t bytes = static_cast<size_t>(dim) * sizeof(T);
  const int32_t* index = in[1].data<int32_t>();
  for_rows(y.shape(0), bytes, [&](int64_t i) {
    T* to = out_ptr<T>(y) + i * dim;
    if (index[i] >= 0 && index[i] < rows) {
      std::memcpy(to, in_ptr<T>(in[0]) + index[i] * dim, bytes);
    } else {
      std::memset(to, 0, bytes);
    }
  });
}

template <class T>
void gather_grad(const Arrays& in, mx::array& dx) {
  const int64_t rows = row_count(dx);
  const int64_t dim = in[0].shape(1);
  const size_t bytes = static_cast<size_t>(dim) * sizeof(T);
  const auto inverse = inverse_of(in[1], rows);
  for_rows(rows, bytes, [&](int64_t row) {
    const int32_t i = inverse[static_cast<size_t>(row)];
    T* to = out_ptr<T>(dx) + row * dim;
    i < 0 ? std::memset(to, 0, bytes) : std::memcpy(to, in_ptr<T>(in[0]) + i * dim, bytes);
  });
}

template <class T>
void scatter(const Arrays& in, Arrays& outputs, bool gated) {
  mx::array& out = outputs[0];
  mx::array* difference = outputs.size() > 1 ? &outputs[1] : nullptr;
  const int64_t rows = row_count(out);
  const int64_t dim = out.shape(-1);
  const size_t bytes = static_cast<size_t>(dim) * sizeof(T);
  const auto inverse = inverse_of(in[2], rows);
  const T* x = in_ptr<T>(in[0]);
  const T* y = in_ptr<T>(in[1]);
  const float* gate = gated ? in[3].data<float>() : nullptr;
  const auto& kernels = skip_gather_kernels().get<T>();
  // Entries that change no row have no difference that anybody reads, but outputs are always defined.
  if (difference) std::memset(difference->data<float>(), 0, difference->nbytes());
  for_rows(rows, bytes, [&](int64_t row) {
    const int32_t i = inverse[static_cast<size_t>(row)];
    const T* from = x + row * dim;
    T* to = out_ptr<T>(out) + row * dim;
    if (i < 0) {
      if (to != from) std::memcpy(to, from, bytes);
    } else if (!gated) {
      std::memcpy(to, y + i * dim, bytes);
    } else {
      kernels.blend(from, y + i * dim, gate[i], to,
                    difference ? difference->data<float>() + i * dim : nullptr, dim);
    }
  });
}

template <class T>
void scatter_grad(const Arrays& in, Arrays& outputs, bool gated) {
  mx::array& dx = outputs[0];
  const int64_t rows = row_count(dx);
  const int64_t dim = dx.shape(-1);
  const size_t bytes = static_cast<size_t>(dim) * sizeof(T);
  const auto inverse = inverse_of(in[1], rows);
  const int32_t* index = in[1].data<int32_t>();
  const T* dout = in_ptr<T>(in[0]);
  T* dy = out_ptr<T>(outputs[1]);
  const float* gate = gated ? in[2].data<float>() : nullptr;
  float* dgate = gated ? outputs[2].data<float>() : nullptr;
  const auto& kernels = skip_gather_kernels().get<T>();
  for (int32_t i = 0; i < in[1].shape(0); ++i) {
    const bool used = index[i] >= 0 && index[i] < rows && inverse[static_cast<size_t>(index[i])] == i;
    if (used) continue;
    std::memset(dy + i * dim, 0, bytes);
    if (gated) dgate[i] = 0.0f;
  }
  for_rows(rows, bytes, [&](int64_t row) {
    const int32_t i = inverse[static_cast<size_t>(row)];
    const T* from = dout + row * dim;
    T* to = out_ptr<T>(dx) + row * dim;
    if (i < 0) {
      if (to != from) std::memcpy(to, from, bytes);
    } else if (!gated) {
      std::memcpy(dy + i * dim, from, bytes);
      std::memset(to, 0, bytes);
    } else {
      dgate[i] = kernels.blend_grad(from, in[3].data<float>() + i * dim, gate[i], to, dy + i * dim, dim);
    }
  });
}

}  // namespace

void SkipGather::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { gather<T>(in, out[0]); });
  });
}

void SkipGatherGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { gather_grad<T>(in, out[0]); });
  });
}

// Scattering in place leaves only the rows of the plan to write.
void SkipScatter::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [gated = options_.gated](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { scatter<T>(in, out, gated); });
  });
}

void SkipScatterGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu_in_place(stream(), inputs, outputs, [gated = gated_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { scatter_grad<T>(in, out, gated); });
  });
}

}  // namespace ghost
