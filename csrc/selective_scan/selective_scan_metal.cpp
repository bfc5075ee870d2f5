#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>

#include "common/metal_alignment.h"
#include "common/metal_kernel.h"
#include "selective_scan/params.h"
#include "selective_scan/selective_scan.h"

namespace ghost {
namespace {

using Layout = SelectiveScanLayout;

constexpr const char* kLibrary = "selective_scan";
constexpr const char* kGradLibrary = "selective_scan_grad";
constexpr const char* kChunkedLibrary = "selective_scan_chunked";

constexpr Extent kThreads{Layout::threads, 1, 1};

// A threadgroup takes 32 channels of a sequence: fewer channels than this, over all sequences, leave most of
// a GPU's cores idle.
constexpr int64_t kFewChannels = 256;
constexpr int kSegmentRows = 4 * Layout::chunk;
// The three passes of the chunked scan take longer than this many sequential steps.
constexpr int kLongSequence = 4 * kSegmentRows;

// The kernels for a shape. This is where variants are chosen.
enum class Variant { single_step, sequential, chunked };

Variant choose_variant(const SelectiveScanOptions& options, int64_t batch, int seqlen, int dim) {
  if (options.rows == ScanRowsAs::single || (!options.ragged() && seqlen == 1)) return Variant::single_step;
  const bool chunked = !options.ragged() && batch * dim < kFewChannels && seqlen >= kLongSequence;
  return chunked ? Variant::chunked : Variant::sequential;
}

// A call of this family: its shape, its operands and how they bind.
class Scan {
 public:
  Scan(mx::Stream stream, const Arrays& inputs, const SelectiveScanOptions& options,
       std::initializer_list<const mx::array*> more_rows = {},
       std::initializer_list<const mx::array*> more_states = {})
      : stream_(stream), in_(inputs), options_(options) {
    const auto& u = inputs[0];
    p.dim = inputs[2].shape(0);
    p.dstate = inputs[2].shape(1);
    p.ngroups = inputs[3].ndim() == u.ndim() ? 1 : inputs[3].shape(-2);
    p.seqlen = options.rows == ScanRowsAs::equal ? u.shape(1) : options.ragged() ? 0 : 1;
    p.batch = options.ragged() ? operand(options.cu_seqlens()).shape(0) - 1 : u.shape(0);
    p.total = row_count(u);
    p.ragged = options.ragged();
    p.softplus = options.softplus;
    p.has_D = options.has_D;
    p.has_z = options.has_z;
    p.has_bias = options.has_bias;
    p.has_state = options.has_state;
    p.segments = 1;
    p.vector_rows = (p.dim / p.ngroups) % 4 == 0 && rows_fit({&inputs[0], &inputs[1]}) &&
                    rows_fit(more_rows) && optional_fits(options.D(), p.dim) &&
                    optional_fits(options.z(), p.dim) && optional_fits(options.delta_bias(), p.dim);
    p.vector_states = packs_fit(p.dstate, 4, {&inputs[2], &inputs[3], &inputs[4]}) &&
                      packs_fit(p.dstate, 4, more_states) && optional_fits(options.initial_state(), p.dstate);
    variant = choose_variant(options, p.batch, p.seqlen, p.dim);
    if (variant == Variant::chunked) {
      p.segments = ceil_div(p.seqlen, kSegmentRows);
      p.segment_rows = kSegmentRows;
    }
  }

  SelectiveScanParams p{};
  Variant variant;

  MetalKernel kernel(const char* library, const std::string& name,
                     std::initializer_list<MetalConstant> constants = {}) const {
    return {stream_, library, "selective_scan_" + name + "_" + metal_dtype(in_[0].dtype()), constants};
  }

  void bind(MetalKernel& kernel, int index) const {
    index < 0 ? kernel.absent() : kernel.input(operand(index));
  }

  // u to cu_seqlens, with other states in the place of the initial ones where there are any.
  void bind_inputs(MetalKernel& kernel, const mx::array* states) const {
    for (size_t i = 0; i < 5; ++i) kernel.input(in_[i]);
    for (int i : {options_.D(), options_.z(), options_.delta_bias()}) bind(kernel, i);
    if (states != nullptr) {
      kernel.input(*states);
    } else {
      bind(kernel, options_.initial_state());
    }
    bind(kernel, options_.cu_seqlens());
  }

  // A threadgroup for every block of channels of every sequence, and for its gaps where there is no sequence.
  Extent grid(int depth = 1) const {
    return {blocks() * p.ngroups, p.ragged ? std::max(p.batch, 1) : p.batch, depth};
  }
  int blocks() const { return ceil_div(p.dim / p.ngroups, Layout::channels); }
  int passes() const { return ceil_div(p.dstate, Layout::pass_states); }
  int parts() const { return p.batch * p.segments; }

  mx::array part_states() const { return temporary(stream_, {parts(), p.dim, p.dstate}, mx::float32); }
  mx::array durations() const { return temporary(stream_, {parts(), p.dim}, mx::float32); }

  // Scratch for what passes leave to the next tile of rows.
  std::optional<mx::array> carried() const {
    return passes() > 1 ? std::optional(part_states()) : std::nullopt;
  }

  // Turns the summaries of segments into what enters each.
  void compose(const mx::array& durations, const mx::array* before, mx::array& states, bool reverse) const {
    MetalKernel ladder(stream_, kChunkedLibrary, "selective_scan_ladder_float32");
    ladder.input(in_[2]).input(durations);
    before != nullptr ? ladder.input(*before) : ladder.absent();
    ladder.output(states).params(
        SelectiveScanLadderParams{p.segments, p.dim, p.dstate, before != nullptr, reverse});
    ladder.run({ceil_div(p.dim * p.dstate, Layout::ladder_lanes), p.batch, 1},
               {Layout::ladder_threads, 1, 1});
  }

  const mx::array* initial_state() const {
    return options_.has_state ? &operand(options_.initial_state()) : nullptr;
  }

 private:
  const mx::array& operand(int index) const { return in_[static_cast<size_t>(index)]; }
  bool rows_fit(std::initializer_list<const mx::array*> rows) const { return packs_fit(p.dim, 4, rows); }
  bool optional_fits(int index, int width) const {
    return index < 0 || packs_fit(width, 4, {&operand(index)});
  }

  mx::Stream stream_;
  const Arrays& in_;
  const SelectiveScanOptions& options_;
};

void bind_output(MetalKernel& kernel, mx::array* out) {
  out != nullptr ? kernel.output(*out) : kernel.absent_output();
}

mx::array* pointer(std::optional<mx::array>& x) { return x ? &*x : nullptr; }

void run_states(const Scan& scan, mx::array& y, mx::array& states) {
  MetalKernel kernel = scan.kernel(kLibrary, "states");
  scan.bind_inputs(kernel, nullptr);
  kernel.output(y).output(states).params(scan.p).run(scan.grid(), kThreads);
}

// The state before every segment.
mx::array entering_states(const Scan& scan, const Arrays& inputs, const SelectiveScanOptions& options) {
  mx::array states = scan.part_states();
  mx::array durations = scan.durations();
  MetalKernel kernel = scan.kernel(kChunkedLibrary, "fwd_summary");
  for (size_t i = 0; i < 4; ++i) kernel.input(inputs[i]);
  scan.bind(kernel, options.delta_bias());
  kernel.output(states).output(durations).params(scan.p);
  kernel.run(scan.grid(scan.p.segments * scan.passes()), kThreads);
  scan.compose(durations, scan.initial_state(), states, false);
  return states;
}

// The gradient of the state after every segment.
mx::array entering_gradients(const Scan& scan, const Arrays& inputs, const SelectiveScanOptions& options,
                             const mx::array& dy, const mx::array& dlast) {
  mx::array gradients = scan.part_states();
  mx::array durations = scan.durations();
  MetalKernel kernel = scan.kernel(kChunkedLibrary, "bwd_summary");
  kernel.input(inputs[1]).input(inputs[2]).input(inputs[4]);
  scan.bind(kernel, options.z());
  scan.bind(kernel, options.delta_bias());
  kernel.input(dy).output(gradients).output(durations).params(scan.p);
  kernel.run(scan.grid(scan.p.segments * scan.passes()), kThreads);
  scan.compose(durations, &dlast, gradients, true);
  return gradients;
}

// A gradient that several threadgroups have a part of: the parts, and their sum when they are there. A single
// part is the gradient itself.
class PartialSum {
 public:
  PartialSum(mx::Stream stream, mx::array* out, int count) : stream_(stream), out_(out), count_(count) {
    if (out == nullptr || count == 1) return;
    mx::Shape shape = out->shape();
    shape.insert(shape.begin(), count);
    parts_ = temporary(stream, shape, mx::float32);
  }

  mx::array* parts() { return parts_ ? &*parts_ : out_; }

  void sum() {
    if (!parts_) return;
    const auto size = static_cast<int>(out_->size());
    MetalKernel(stream_, kGradLibrary, "selective_scan_sum_float32")
        .input(*parts_)
        .output(*out_)
        .params(SelectiveScanSumParams{count_, size, size % 4 == 0})
        .run({ceil_div(size, 4 * Layout::sum_threads), 1, 1}, {Layout::sum_threads, 1, 1});
  }

 private:
  mx::Stream stream_;
  mx::array* out_;
  int count_;
  std::optional<mx::array> parts_;
};

}  // namespace

void SelectiveScan::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  Scan scan(stream(), inputs, options_);
  if (scan.variant == Variant::single_step) return run_states(scan, outputs[0], outputs[1]);

  std::optional<mx::array> entering;
  if (scan.variant == Variant::chunked) {
    entering = entering_states(scan, inputs, options_);
    scan.p.has_state = true;
  }
  std::optional<mx::array> carried = scan.carried();
  scan.p.saving = saving_ && outputs[2].size() > 0;
  MetalKernel kernel = scan.kernel(kLibrary, "fwd");
  scan.bind_inputs(kernel, pointer(entering));
  kernel.output(outputs[0]).output(outputs[1]);
  bind_output(kernel, scan.p.saving ? &outputs[2] : nullptr);
  bind_output(kernel, pointer(carried));
  kernel.params(scan.p).run(scan.grid(scan.p.segments), kThreads);
}

void SelectiveScanGrad::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  const auto floats = static_cast<size_t>(options_.num_inputs());
  const auto& saved = inputs[floats];
  const auto& dy = inputs[floats + 1];
  const auto& dlast = inputs[floats + 2];
  Scan scan(stream(), inputs, options_, {&dy}, {&saved, &dlast});
  const auto optional_output = [&](int index) {
    return index < 0 ? nullptr : &outputs[static_cast<size_t>(index)];
  };

  std::optional<mx::array> entering;
  if (scan.variant == Variant::chunked) entering = entering_gradients(scan, inputs, options_, dy, dlast);
  std::optional<mx::array> carried = scan.carried();
  PartialSum dA(stream(), &outputs[2], scan.parts());
  PartialSum dB(stream(), &outputs[3], scan.blocks());
  PartialSum dC(stream(), &outputs[4], scan.blocks());
  PartialSum dD(stream(), optional_output(options_.D()), scan.parts());
  PartialSum dbias(stream(), optional_output(options_.delta_bias()), scan.parts());

  MetalKernel kernel = scan.kernel(kGradLibrary, "bwd", {{0, scan.passes() > 1}});
  scan.bind_inputs(kernel, nullptr);
  kernel.input(saved).input(dy).input(entering ? *entering : dlast).output(outputs[0]).output(outputs[1]);
  for (PartialSum* sum : {&dA, &dB, &dC, &dD}) bind_output(kernel, sum->parts());
  bind_output(kernel, optional_output(options_.z()));
  bind_output(kernel, dbias.parts());
  bind_output(kernel, optional_output(options_.initial_state()));
  bind_output(kernel, pointer(carried));
  kernel.params(scan.p).run(scan.grid(scan.p.segments), kThreads);
  for (PartialSum* sum : {&dA, &dB, &dC, &dD, &dbias}) sum->sum();
}

void SelectiveScanStates::eval_gpu(const Arrays& inputs, Arrays& outputs) {
  allocate(outputs);
  run_states(Scan(stream(), inputs, options_), outputs[0], outputs[1]);
}

}  // namespace ghost
