#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "common/checks.h"
#include "common/metal.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"

namespace ghost {

using Arrays = std::vector<mx::array>;
using ComposedForm = std::function<Arrays(const Arrays&)>;

// Base of every primitive. The composed form computes the same outputs from the same inputs with MLX's own
// operations; it serves jvp, vmap, gradients of gradients, and devices without a kernel of ours.
class Primitive : public mx::Primitive {
 public:
  Primitive(mx::Stream stream, ComposedForm composed)
      : mx::Primitive(stream), composed_(std::move(composed)) {}

#if defined(GHOST_METAL_EMULATED)
  void eval_cpu(const Arrays& inputs, Arrays& outputs) override { eval_gpu(inputs, outputs); }
#endif
  void eval_gpu(const Arrays& inputs, Arrays& outputs) override;

  Arrays jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) override;
  Arrays vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
             const Arrays& outputs) override;
  std::pair<Arrays, std::vector<int>> vmap(const Arrays& inputs, const std::vector<int>& axes) override;

 protected:
  const ComposedForm& composed() const { return composed_; }

 private:
  ComposedForm composed_;
};

// Which kernels an operator has. What has none for GPUs is there MLX's own operations, which are kernels
// already.
enum class Kernels { cpu, cpu_and_metal };

// True where an operator is to be built from MLX's own operations: on streams of a device without a kernel of
// ours, and everywhere while set_force_composed(true) holds on this thread (comparisons and tests).
bool use_composed(const mx::Stream& stream, Kernels kernels);
bool on_gpu(const mx::Stream& stream);
bool force_composed();
void set_force_composed(bool on);

// True when x is row-contiguous, or will be once it is evaluated. Inputs of a compiled function are not there
// while it is traced, so nothing is known of them. Looks back over as many operations of MLX's own.
bool is_dense(const mx::array& x, int steps = 4);

// Input arrays as the kernels take them: row-contiguous, on the operator's stream. What is dense already
// needs no node to make it so: such nodes cost microseconds each, and a training step would have hundreds.
inline mx::array dense(const mx::array& x, const mx::Stream& s) {
  return is_dense(x) ? x : mx::contiguous(x, false, s);
}
// The same in a given dtype: tangents and cotangents may come in another than that of what they belong to.
inline mx::array dense_as(const mx::array& x, mx::Dtype dtype, const mx::Stream& s) {
  return dense(mx::astype(x, dtype, s), s);
}
inline mx::array dense_float32(const mx::array& x, const mx::Stream& s) {
  return dense_as(x, mx::float32, s);
}

// An operand that is not differentiated, even where everything is traced.
inline mx::array dense_untraced(const mx::array& x, const mx::Stream& s) {
  const auto y = dense(x, s);
  return y.is_tracer() ? mx::stop_gradient(y, s) : y;
}
// One of indices, as int32.
inline mx::array dense_index(const mx::array& x, const mx::Stream& s) {
  return dense_untraced(as_index(x, s), s);
}

// Asks for huge pages where an output is large: its pages are mapped as they are first written, which in
// small ones takes as long as a pass of arithmetic.
void prefer_huge_pages(mx::array& out);

// True where an operation is best computed in the call that asks for it: it is this small (in multiply-adds),
// its inputs are there, nothing traces it, and it is meant for the default stream. Handing work to the
// stream's thread and waiting for it takes MLX about 8 us a call, several times a small product.
bool best_at_once(const Arrays& inputs, const mx::Stream& stream, int64_t work);

// The outputs of a primitive's eval_cpu, computed on this thread. They have no graph behind them.
Arrays computed_at_once(Primitive& primitive, const Arrays& inputs, const std::vector<mx::Shape>& shapes,
                        const std::vector<mx::Dtype>& dtypes);
bool computing_at_once();

// Allocates the outputs of eval_cpu and queues work(inputs, outputs) on the stream, or does it while
// something is computed at once. The work runs even when every output is empty (other outputs may not be), so
// kernels take zero sizes in their stride. It must not throw.
template <class Work>
void dispatch_cpu(const mx::Stream& stream, const Arrays& inputs, Arrays& outputs, Work work) {
  const auto weak = [](const Arrays& arrays) {
    Arrays copies;
    copies.reserve(arrays.size());
    for (const auto& x : arrays) copies.push_back(mx::array::unsafe_weak_copy(x));
    return copies;
  };
  for (auto& out : outputs) {
    out.set_data(mx::allocator::malloc(out.nbytes()));
    prefer_huge_pages(out);
  }
  if (computing_at_once()) return work(inputs, outputs);
  mx::cpu::get_command_encoder(stream).dispatch(
      [in = weak(inputs), out = weak(outputs), work = std::move(work)]() mutable { work(in, out); });
}

// The same, with the first output in the memory of the first input where nobody else will read that: both
// have one shape and dtype, and the work reads no element of the input after it has written it.
template <class Work>
void dispatch_cpu_in_place(const mx::Stream& stream, const Arrays& inputs, Arrays& outputs, Work work) {
  if (!inputs[0].is_donatable()) return dispatch_cpu(stream, inputs, outputs, std::move(work));
  outputs[0].copy_shared_buffer(inputs[0]);
  Arrays rest(outputs.begin() + 1, outputs.end());
  const auto first = mx::array::unsafe_weak_copy(outputs[0]);
  dispatch_cpu(stream, inputs, rest, [first, work = std::move(work)](const Arrays& in, Arrays& out) mutable {
    Arrays all{first};
    all.insert(all.end(), out.begin(), out.end());
    work(in, all);
  });
}

constexpr int64_t kNeverAtOnce = std::numeric_limits<int64_t>::max();

// The work of passes over so many elements, in multiply-adds that take as long.
inline int64_t work_of(size_t elements) { return 16 * static_cast<int64_t>(elements); }

// The outputs of a primitive over `inputs`, of which the work is known where they may be computed at once.
template <class P>
Arrays outputs_of(const std::shared_ptr<P>& primitive, const Arrays& inputs,
                  const std::vector<mx::Dtype>& dtypes, int64_t work = kNeverAtOnce) {
  auto shapes = primitive->output_shapes(inputs);
  if (best_at_once(inputs, primitive->stream(), work))
    return computed_at_once(*primitive, inputs, shapes, dtypes);
  return mx::array::make_arrays(std::move(shapes), dtypes, primitive, inputs);
}

// Rows of an operand (..., dim): the product of its leading dimensions.
inline int row_count(const mx::array& x) {
  int rows = 1;
  for (size_t i = 0; i + 1 < x.ndim(); ++i) rows *= x.shape(static_cast<int>(i));
  return rows;
}

// True when some input is being differentiated or traced, so that an operator may want to save what its vjp
// needs.
inline bool any_tracer(const Arrays& inputs) {
  for (const auto& x : inputs) {
    if (x.is_tracer()) return true;
  }
  return false;
}

// True for zeros that are known without evaluating anything, as MLX makes them for outputs that were not
// used.
bool known_zero(const mx::array& x);

// Picks the gradients named by argnums out of those of all inputs.
inline Arrays pick(const Arrays& all, const std::vector<int>& argnums) {
  Arrays picked;
  picked.reserve(argnums.size());
  for (int i : argnums) picked.push_back(all[static_cast<size_t>(i)]);
  return picked;
}

}  // namespace ghost
