#include <memory>

#include "common/dispatch.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "common/sequences.h"
#include "selective_scan/selective_scan.h"
#include "selective_scan/selective_scan_kernels.h"

namespace ghost {
namespace {

// All cuts below depend on shapes and boundaries only, so that results do not depend on the threads.
constexpr int64_t kMaxBundles = 32;          // partial gradients of A, D and delta_bias are kept per bundle
constexpr int64_t kSliceChannels = 128;      // a slice's chunk buffers fit L2
constexpr int64_t kSmallSliceChannels = 64;  // when there are too few sequences to share out
constexpr int64_t kEnoughTasks = 32;
constexpr int64_t kSerialWork = 1 << 15;  // state updates that are done sooner than threads wake

// Floats on cache lines, uninitialised: the kernels' vectors never straddle two lines.
class Floats {
 public:
  explicit Floats(int64_t n)
      : storage_(std::make_unique_for_overwrite<char[]>(static_cast<size_t>(n) * sizeof(float) + kLine)) {
    void* p = storage_.get();
    size_t space = static_cast<size_t>(n) * sizeof(float) + kLine;
    data_ = static_cast<float*>(std::align(kLine, static_cast<size_t>(n) * sizeof(float), p, space));
  }
  float* data() const { return data_; }

 private:
  static constexpr size_t kLine = 64;
  std::unique_ptr<char[]> storage_;
  float* data_;
};

struct Slice {
  ScanSlice slice;
  int64_t group;
  int64_t index;  // among the slices of the group
};

// Sequences [begin, end), scanned by the same task one after the other.
struct Bundle {
  int64_t begin;
  int64_t end;
};

// How one call is cut, and the operands it has.
template <class T>
struct Plan {
  Plan(const Arrays& inputs, const SelectiveScanOptions& options)
      : in(inputs), options(options), kernels(selective_scan_kernels().get<T>()) {
    dim = in[2].shape(0);
    dstate = in[2].shape(1);
    ngroups = in[3].ndim() == in[0].ndim() ? 1 : in[3].shape(-2);
    bc_stride = ngroups * dstate;
    if (options.ragged()) {
      const auto& cu = in[static_cast<size_t>(options.cu_seqlens())];
      total = in[0].shape(0);
      spans = ragged_spans(cu.data<int32_t>(), static_cast<int64_t>(cu.size()) - 1, total);
    } else {
      const int64_t seqlen = options.rows == ScanRowsAs::equal ? in[0].shape(1) : 1;
      total = in[0].shape(0) * seqlen;
      spans = equal_spans(in[0].shape(0), seqlen);
    }
    int64_t next = 0;
    for (const Span& span : spans) {
      saved_offsets.push_back(next);
      next += std::max<int64_t>(span.length() - 1, 0) / kScanChunk;
    }
    cut_bundles();
    cut_slices();
    serial = total * dim * dstate <= kSerialWork;
  }

  void cut_bundles() {
    const auto batch = static_cast<int64_t>(spans.size());
    const int64_t wanted = std::min(batch, kMaxBundles);
    int64_t rows = 0;
    for (int64_t b = 0; b < batch; ++b) {
      const int64_t at =
          batch <= kMaxBundles ? b : std::min(wanted - 1, rows * wanted / std::max<int64_t>(total, 1));
      if (bundles.empty() || at != last_bundle) bundles.push_back({b, b});
      last_bundle = at;
      bundles.back().end = b + 1;
      rows += spans[static_cast<size_t>(b)].length();
    }
  }

  void cut_slices() {
    const int64_t group_dim = dim / ngroups;
    const auto tasks = static_cast<int64_t>(bundles.size()) * ngroups * (group_dim / kSliceChannels);
    const int64_t size = tasks >= kEnoughTasks ? kSliceChannels : kSmallSliceChannels;
    for (int64_t group = 0; group < ngroups; ++group) {
      for (int64_t c = 0; c < group_dim; c += size) {
        const int64_t channels = std::min(size, group_dim - c);
        slices.push_back({{group * group_dim + c, channels, num_blocks}, group, c / size});
        num_blocks += (channels + kernels.width - 1) / kernels.width;
      }
    }
    slices_per_group = (group_dim + size - 1) / size;
  }

  template <class Fn>
  void for_all(int64_t n, Fn&& fn) const {
    parallel_for_if(!serial, n, fn);
  }

  // fn(bundle, slice, scratch) for all of them, each task with `floats` of scratch of its own.
  template <class Size, class Fn>
  void for_tasks(Size floats, Fn&& fn) const {
    const auto per_bundle = static_cast<int64_t>(slices.size());
    for_all(static_cast<int64_t>(bundles.size()) * per_bundle, [&](int64_t i) {
      const Slice& slice = slices[static_cast<size_t>(i % per_bundle)];
      fn(i / per_bundle, slice, scratch(Scratch::scan, static_cast<size_t>(floats(slice.slice))));
    });
  }

  const float* optional(int index) const {
    return index < 0 ? nullptr : in[static_cast<size_t>(index)].template data<float>();
  }

  ScanSequence<T> sequence(int64_t b, const Slice& slice, const float* A) const {
    const Span span = spans[static_cast<size_t>(b)];
    const float* state = optional(options.initial_state());
    const int64_t bc = span.begin * bc_stride + slice.group * dstate;
    return {in_ptr<T>(in[0]) + span.begin * dim,
            in_ptr<T>(in[1]) + span.begin * dim,
            options.has_z ? in_ptr<T>(in[static_cast<size_t>(options.z())]) + span.begin * dim : nullptr,
            A,
            in[3].data<float>() + bc,
            in[4].data<float>() + bc,
            optional(options.D()),
            optional(options.delta_bias()),
            state ? state + b * dim * dstate : nullptr,
            span.length(),
            dim,
            bc_stride,
            static_cast<int>(dstate),
            options.softplus};
  }

  Floats packed_A() const {
    Floats packed(num_blocks * dstate * kernels.width);
    for_all(static_cast<int64_t>(slices.size()), [&](int64_t i) {
      const ScanSlice& slice = slices[static_cast<size_t>(i)].slice;
      kernels.pack(in[2].data<float>(), slice, static_cast<int>(dstate),
                   packed.data() + slice.block0 * dstate * kernels.width);
    });
    return packed;
  }

  const Arrays& in;
  const SelectiveScanOptions& options;
  const SelectiveScanKernels<T>& kernels;
  int64_t dim, dstate, ngroups, bc_stride, total;
  std::vector<Span> spans;
  std::vector<int64_t> saved_offsets;  // the first saved state of every sequence
  std::vector<Bundle> bundles;
  std::vector<Slice> slices;
  int64_t slices_per_group = 0;
  int64_t num_blocks = 0;
  int64_t last_bundle = -1;
  bool serial = false;
};

template <class T>
void forward(const Arrays& inputs, Arrays& outputs, const SelectiveScanOptions& options) {
  const Plan<T> plan(inputs, options);
  const int64_t state_size = plan.dim * plan.dstate;
  T* y = out_ptr<T>(outputs[0]);
  float* last = outputs[1].data<float>();
  float* saved = outputs.size() > 2 ? outputs[2].data<float>() : nullptr;
  zero_gaps(y, plan.spans, plan.total, plan.dim);
  if (!options.ragged() && plan.total == static_cast<int64_t>(plan.spans.size())) {
    const float* A = inputs[2].data<float>();
    plan.for_tasks([](const ScanSlice&) { return 0; },
                   [&](int64_t i, const Slice& slice, float*) {
                     const Bundle bundle = plan.bundles[static_cast<size_t>(i)];
                     for (int64_t b = bundle.begin; b < bundle.end; ++b) {
                       plan.kernels.step(plan.sequence(b, slice, A), slice.slice, y + b * plan.dim,
                                         last + b * state_size);
                     }
                   });
    return;
  }
  const Floats A = plan.packed_A();
  const auto floats = [&](const ScanSlice& slice) {
    return plan.kernels.forward_scratch(slice, static_cast<int>(plan.dstate));
  };
  plan.for_tasks(floats, [&](int64_t i, const Slice& slice, float* scratch) {
    const Bundle bundle = plan.bundles[static_cast<size_t>(i)];
    for (int64_t b = bundle.begin; b < bundle.end; ++b) {
      const auto at = static_cast<size_t>(b);
      plan.kernels.forward(plan.sequence(b, slice, A.data()), slice.slice,
                           y + plan.spans[at].begin * plan.dim, last + b * state_size,
                           saved ? saved + plan.saved_offsets[at] * state_size : nullptr, scratch);
    }
  });
}

// out[row] = the sum over slices of partial[slice, row], for rows that belong to a sequence.
template <class T>
void sum_slices(const Plan<T>& plan, const float* partial, float* out) {
  const int64_t size = plan.total * plan.bc_stride;
  constexpr int64_t kTile = 1 << 14;
  plan.for_all((size + kTile - 1) / kTile, [&](int64_t i) {
    const int64_t begin = i * kTile, end = std::min(begin + kTile, size);
    std::copy(partial + begin, partial + end, out + begin);
    for (int64_t k = 1; k < plan.slices_per_group; ++k) {
      const float* from = partial + k * size;
      for (int64_t j = begin; j < end; ++j) out[j] += from[j];
    }
  });
}

float* float_output(Arrays& outputs, int index) {
  return index < 0 ? nullptr : outputs[static_cast<size_t>(index)].data<float>();
}

template <class T>
void backward(const Arrays& inputs, Arrays& outputs, const SelectiveScanOptions& options) {
  const Plan<T> plan(inputs, options);
  const auto& kernels = plan.kernels;
  const int dstate = static_cast<int>(plan.dstate);
  const int64_t width = kernels.width;
  const int64_t state_size = plan.dim * plan.dstate;
  const size_t extra = static_cast<size_t>(options.num_inputs());
  const float* saved = inputs[extra].data<float>();
  const T* dy = in_ptr<T>(inputs[extra + 1]);
  const float* dlast = inputs[extra + 2].data<float>();
  T* du = out_ptr<T>(outputs[0]);
  T* ddelta = out_ptr<T>(outputs[1]);
  T* dz = options.has_z ? out_ptr<T>(outputs[static_cast<size_t>(options.z())]) : nullptr;
  float* dstate_out = float_output(outputs, options.initial_state());
  float* dB = outputs[3].data<float>();
  float* dC = outputs[4].data<float>();

  const Floats A = plan.packed_A();
  // Per bundle: dA, dD and ddelta_bias of all blocks, packed.
  const int64_t block_size = (plan.dstate + 2) * width;
  const int64_t bundle_size = plan.num_blocks * block_size;
  const Floats partial(static_cast<int64_t>(plan.bundles.size()) * bundle_size);
  // Per slice of a group: dB and dC of all rows. One slice writes the results themselves.
  const bool direct = plan.slices_per_group <= 1;
  const int64_t bc_size = plan.total * plan.bc_stride;
  const Floats bc_partial(direct ? 0 : 2 * plan.slices_per_group * bc_size);
  float* slice_dB = direct ? dB : bc_partial.data();
  float* slice_dC = direct ? dC : bc_partial.data() + plan.slices_per_group * bc_size;
  const auto floats = [&](const ScanSlice& slice) { return kernels.backward_scratch(slice, dstate); };

  plan.for_tasks(floats, [&](int64_t i, const Slice& slice, float* scratch) {
    const Bundle bundle = plan.bundles[static_cast<size_t>(i)];
    const int64_t blocks = (slice.slice.channels + width - 1) / width;
    float* dA = partial.data() + i * bundle_size + slice.slice.block0 * block_size;
    float* dD = dA + blocks * plan.dstate * width;
    std::fill(dA, dA + blocks * block_size, 0.0f);
    for (int64_t b = bundle.begin; b < bundle.end; ++b) {
      const auto at = static_cast<size_t>(b);
      const int64_t row = plan.spans[at].begin;
      const int64_t bc =
          (direct ? 0 : slice.index * bc_size) + row * plan.bc_stride + slice.group * plan.dstate;
      const ScanGradients<T> out{du + row * plan.dim,
                                 ddelta + row * plan.dim,
                                 dz ? dz + row * plan.dim : nullptr,
                                 dstate_out ? dstate_out + b * state_size : nullptr,
                                 slice_dB + bc,
                                 slice_dC + bc,
                                 dA,
                                 dD,
                                 dD + blocks * width};
      kernels.backward(plan.sequence(b, slice, A.data()), slice.slice, dy + row * plan.dim,
                       dlast + b * state_size, saved + plan.saved_offsets[at] * state_size, out, scratch);
    }
  });

  if (plan.slices_per_group == 0) {  // no channels
    std::fill(dB, dB + bc_size, 0.0f);
    std::fill(dC, dC + bc_size, 0.0f);
  } else if (!direct) {
    sum_slices(plan, slice_dB, dB);
    sum_slices(plan, slice_dC, dC);
  }
  // Every slice adds up its bundles, in order, into the first.
  float* dA = outputs[2].data<float>();
  float* dD = float_output(outputs, options.D());
  float* dbias = float_output(outputs, options.delta_bias());
  if (plan.bundles.empty()) {
    std::fill(dA, dA + state_size, 0.0f);
    if (dD) std::fill(dD, dD + plan.dim, 0.0f);
    if (dbias) std::fill(dbias, dbias + plan.dim, 0.0f);
  }
  plan.for_all(plan.bundles.empty() ? 0 : static_cast<int64_t>(plan.slices.size()), [&](int64_t i) {
    const ScanSlice& slice = plan.slices[static_cast<size_t>(i)].slice;
    const int64_t blocks = (slice.channels + width - 1) / width;
    float* sum = partial.data() + slice.block0 * block_size;
    for (size_t k = 1; k < plan.bundles.size(); ++k) {
      const float* from = sum + static_cast<int64_t>(k) * bundle_size;
      for (int64_t j = 0; j < blocks * block_size; ++j) sum[j] += from[j];
    }
    kernels.unpack(sum, slice, dstate, dA);
    const float* sum_D = sum + blocks * plan.dstate * width;
    if (dD) std::copy(sum_D, sum_D + slice.channels, dD + slice.channel0);
    if (dbias)
      std::copy(sum_D + blocks * width, sum_D + blocks * width + slice.channels, dbias + slice.channel0);
  });

  zero_gaps(du, plan.spans, plan.total, plan.dim);
  zero_gaps(ddelta, plan.spans, plan.total, plan.dim);
  if (dz) zero_gaps(dz, plan.spans, plan.total, plan.dim);
  zero_gaps(dB, plan.spans, plan.total, plan.bc_stride);
  zero_gaps(dC, plan.spans, plan.total, plan.bc_stride);
}

// Every row is a step from the state of the row before.
template <class T>
void states(const Arrays& inputs, Arrays& outputs, const SelectiveScanOptions& options) {
  const Plan<T> plan(inputs, options);
  const int64_t state_size = plan.dim * plan.dstate;
  T* y = out_ptr<T>(outputs[0]);
  float* h = outputs[1].data<float>();
  const float* A = inputs[2].data<float>();
  zero_gaps(y, plan.spans, plan.total, plan.dim);
  zero_gaps(h, plan.spans, plan.total, state_size);
  plan.for_tasks([](const ScanSlice&) { return 0; },
                 [&](int64_t i, const Slice& slice, float*) {
                   const Bundle bundle = plan.bundles[static_cast<size_t>(i)];
                   for (int64_t b = bundle.begin; b < bundle.end; ++b) {
                     const Span span = plan.spans[static_cast<size_t>(b)];
                     ScanSequence<T> row = plan.sequence(b, slice, A);
                     for (int64_t t = span.begin; t < span.end; ++t) {
                       plan.kernels.step(row, slice.slice, y + t * plan.dim, h + t * state_size);
                       row.u += plan.dim;
                       row.delta += plan.dim;
                       if (row.z) row.z += plan.dim;
                       row.B += plan.bc_stride;
                       row.C += plan.bc_stride;
                       row.state = h + t * state_size;
                     }
                   }
                 });
}

}  // namespace

void SelectiveScan::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { forward<T>(in, out, options); });
  });
}

void SelectiveScanGrad::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { backward<T>(in, out, options); });
  });
}

void SelectiveScanStates::eval_cpu(const Arrays& inputs, Arrays& outputs) {
  dispatch_cpu(stream(), inputs, outputs, [options = options_](const Arrays& in, Arrays& out) {
    dispatch_dtype(in[0].dtype(), [&]<class T>() { states<T>(in, out, options); });
  });
}

}  // namespace ghost
