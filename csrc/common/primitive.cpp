#include "common/primitive.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "mlx/transforms.h"
#if defined(__linux__)
#  include <sys/mman.h>
#endif

namespace ghost {
namespace {

// The composed form as a function of the inputs named by argnums alone.
ComposedForm restrict_to(const ComposedForm& composed, const Arrays& primals,
                         const std::vector<int>& argnums) {
  return [composed, primals, argnums](const Arrays& varied) {
    Arrays inputs = primals;
    for (size_t i = 0; i < argnums.size(); ++i) inputs[static_cast<size_t>(argnums[i])] = varied[i];
    return composed(inputs);
  };
}

bool one_of(const std::string& name, std::initializer_list<const char*> names) {
  return std::any_of(names.begin(), names.end(), [&](const char* n) { return name == n; });
}

// True when x has its memory, even if it is still being computed, as weights are while the next step of
// training is put together.
bool is_laid_out(const mx::array& x) { return x.status() != mx::array::Status::unscheduled; }

// True when x is one element, or known to repeat one.
bool has_one_value(const mx::array& x) {
  if (x.size() == 1) return true;
  if (is_laid_out(x)) return x.data_size() == 1;
  return x.has_primitive() && one_of(x.primitive().name(), {"Broadcast"}) && x.inputs()[0].size() == 1;
}

thread_local bool forced = false;
thread_local bool at_once = false;

constexpr int64_t kWorkAtOnce = int64_t{1} << 24;

}  // namespace

// Operators build their composed form on GPU streams (use_composed), so no kernelless primitive gets here.
void Primitive::eval_gpu(const Arrays&, Arrays&) {
  throw std::runtime_error(
      std::string("[") + name() +
      "] has no kernel for this device; build the operation on its stream to get the composed form, or pass "
      "stream=mx.cpu.");
}

Arrays Primitive::jvp(const Arrays& primals, const Arrays& tangents, const std::vector<int>& argnums) {
  return mx::jvp(restrict_to(composed_, primals, argnums), pick(primals, argnums), tangents).second;
}

Arrays Primitive::vjp(const Arrays& primals, const Arrays& cotangents, const std::vector<int>& argnums,
                      const Arrays&) {
  return mx::vjp(restrict_to(composed_, primals, argnums), pick(primals, argnums), cotangents).second;
}

std::pair<Arrays, std::vector<int>> Primitive::vmap(const Arrays& inputs, const std::vector<int>& axes) {
  Arrays outputs = mx::vmap(composed_, axes)(inputs);
  std::vector<int> out_axes(outputs.size(), 0);
  return {std::move(outputs), std::move(out_axes)};
}

bool is_dense(const mx::array& x, int steps) {
  if (is_laid_out(x)) return x.flags().row_contiguous;
  if (!x.has_primitive() || steps == 0) return false;
  const mx::Primitive& made_by = x.primitive();
  if (dynamic_cast<const Primitive*>(&made_by)) return true;  // ours allocate what they return
  if (one_of(made_by.name(), {"Full"})) return has_one_value(x.inputs()[0]);
  if (one_of(made_by.name(), {"Concatenate"})) return true;
  if (one_of(made_by.name(), {"Reshape", "ExpandDims", "Squeeze"})) return is_dense(x.inputs()[0], steps - 1);
  // Elementwise operations lay out what they return like their operands.
  if (!one_of(made_by.name(), {"Copy", "StopGradient", "AsType", "Negative", "Exp", "Add", "Multiply"}))
    return false;
  const auto& inputs = x.inputs();
  return std::all_of(inputs.begin(), inputs.end(),
                     [&](const mx::array& in) { return in.shape() == x.shape() && is_dense(in, steps - 1); });
}

bool best_at_once(const Arrays& inputs, const mx::Stream& stream, int64_t work) {
  if (work > kWorkAtOnce || on_gpu(stream) || any_tracer(inputs)) return false;
  // Results on the way in an evaluation of another thread look available. Only streams that are not safe for
  // several threads can get here with one, and MLX leaves it to their users to wait.
  if (!std::all_of(inputs.begin(), inputs.end(), [](const mx::array& x) { return x.is_available(); }))
    return false;
  return stream == mx::default_stream(mx::default_device());
}

Arrays computed_at_once(Primitive& primitive, const Arrays& inputs, const std::vector<mx::Shape>& shapes,
                        const std::vector<mx::Dtype>& dtypes) {
  struct Flag {
    Flag() { at_once = true; }
    ~Flag() { at_once = false; }
  };
  Arrays outputs;
  outputs.reserve(shapes.size());
  for (size_t i = 0; i < shapes.size(); ++i) outputs.emplace_back(shapes[i], dtypes[i], nullptr, Arrays{});
  const Flag flag;
  primitive.eval_cpu(inputs, outputs);
  for (auto& out : outputs) out.set_status(mx::array::Status::available);
  return outputs;
}

bool computing_at_once() { return at_once; }

void prefer_huge_pages(mx::array& out) {
#if defined(__linux__)
  constexpr uintptr_t huge_page = 1 << 21;
  if (out.nbytes() < 2 * huge_page) return;
  const auto begin = reinterpret_cast<uintptr_t>(out.data<char>());
  const uintptr_t first = (begin + huge_page - 1) / huge_page * huge_page;
  const uintptr_t last = (begin + out.nbytes()) / huge_page * huge_page;
  // Advice: where it is not taken, nothing else changes.
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  static_cast<void>(out);
#endif
}

bool known_zero(const mx::array& x) {
  if (x.has_primitive()) {
    return x.inputs().size() == 1 && one_of(x.primitive().name(), {"AsType", "Broadcast", "Full"}) &&
           known_zero(x.inputs()[0]);
  }
  if (!x.is_available() || x.size() != 1) return false;
  const char* bytes = x.data<char>();
  return std::all_of(bytes, bytes + x.itemsize(), [](char byte) { return byte == 0; });
}

bool on_gpu(const mx::Stream& stream) {
#if defined(GHOST_METAL_EMULATED)
  static_cast<void>(stream);
  return true;
#else
  return stream.device == mx::Device::gpu;
#endif
}

bool use_composed(const mx::Stream& stream, Kernels kernels) {
  if (forced) return true;
  return on_gpu(stream) && !(kernels == Kernels::cpu_and_metal && metal_available());
}

bool force_composed() { return forced; }

void set_force_composed(bool on) { forced = on; }

}  // namespace ghost
