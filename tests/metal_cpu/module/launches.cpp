#include "launches.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "abi.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/backend/metal/device.h"

namespace ghost::emulated {

using mlx::core::metal::Binding;

// Of Metal's buffers, and more than any vector load asks for.
constexpr size_t kAlignment = 256;

namespace {

struct SharedObject {
  int (*has_kernel)(const char*);
  int (*launch)(const MslLaunch*, MslReport*);
};

std::mutex mutex;  // guards all below
std::map<std::string, std::pair<std::string, SharedObject>>& objects() {
  static std::map<std::string, std::pair<std::string, SharedObject>> all;
  return all;
}
std::vector<Launch> launched;
std::atomic<bool> recording = false;

SharedObject load(const std::string& path) {
  void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!handle) throw std::runtime_error(dlerror());
  return {reinterpret_cast<int (*)(const char*)>(dlsym(handle, "msl_has_kernel")),
          reinterpret_cast<int (*)(const MslLaunch*, MslReport*)>(dlsym(handle, "msl_launch"))};
}

}  // namespace

void use_library(const std::string& name, const std::string& shared_object) {
  const std::lock_guard lock(mutex);
  objects()[name] = {shared_object, load(shared_object)};
}

std::vector<std::string> libraries() {
  const std::lock_guard lock(mutex);
  std::vector<std::string> names;
  for (const auto& [name, object] : objects()) names.push_back(name);
  return names;
}

void record(bool on) { recording = on; }

std::vector<Launch> take_launches() {
  const std::lock_guard lock(mutex);
  return std::exchange(launched, {});
}

// The library that has a kernel, by the name the host gave: "ghost_native_<version>_<stem>", or without the
// stem the one of all kernels that is compiled ahead of time.
static SharedObject object_of(const std::string& library, const std::string& kernel) {
  const std::lock_guard lock(mutex);
  const bool combined = library.ends_with(GHOST_VERSION);
  for (const auto& [name, object] : objects()) {
    const std::string ending = "_" + name;
    const bool named = library.ends_with(GHOST_VERSION + ending);
    if ((combined || named) && object.second.has_kernel(kernel.c_str())) return object.second;
  }
  throw std::runtime_error("library " + library + " has no kernel " + kernel + ".");
}

// The operands of a launch in memory aligned as a GPU's buffers are, and back when it has run. Operands that
// share memory share the copy.
class Operands {
 public:
  explicit Operands(const std::vector<Binding>& bindings) : bindings_(bindings) {
    for (const auto& binding : bindings) {
      buffers_.push_back({nullptr, 0, binding.copy != nullptr});
      if (!binding.data) continue;
      auto& copy = copies_[binding.data];
      if (!copy) {
        size_t bytes = 0;
        for (const auto& other : bindings) {
          if (other.data == binding.data) bytes = std::max(bytes, other.bytes);
        }
        const size_t padded = (binding.phase + bytes + kAlignment) / kAlignment * kAlignment;
        copy.reset(static_cast<char*>(std::aligned_alloc(kAlignment, padded)), [](char* p) { std::free(p); });
        std::memcpy(copy.get() + binding.phase, binding.data, bytes);
      }
      buffers_.back().data = copy.get() + binding.phase;
      buffers_.back().bytes = binding.bytes;
    }
  }

  const std::vector<MslBuffer>& buffers() const { return buffers_; }

  // Outputs to where they belong. An input that the kernel wrote to ends the process: its index is wrong.
  void finish(const char* kernel) const {
    for (size_t i = 0; i < bindings_.size(); ++i) {
      const auto& binding = bindings_[i];
      if (!binding.data || binding.output) continue;
      const bool also_output = std::any_of(bindings_.begin(), bindings_.end(), [&](const Binding& other) {
        return other.output && other.data == binding.data;
      });
      if (also_output || std::memcmp(buffers_[i].data, binding.data, binding.bytes) == 0) continue;
      std::fprintf(stderr, "Metal emulator: %s wrote to buffer %zu, which is an input\n", kernel, i);
      std::abort();
    }
    for (size_t i = 0; i < bindings_.size(); ++i) {
      if (bindings_[i].output) std::memcpy(bindings_[i].data, buffers_[i].data, bindings_[i].bytes);
    }
  }

 private:
  const std::vector<Binding>& bindings_;
  std::map<const char*, std::shared_ptr<char>> copies_;
  std::vector<MslBuffer> buffers_;
};

static void launch(const MTL::ComputePipelineState& pipeline, const std::vector<Binding>& bindings,
                   const std::array<uint32_t, 3>& groups, const std::array<uint32_t, 3>& threads) {
  const SharedObject object = object_of(pipeline.library->name, pipeline.kernel);
  const Operands operands(bindings);
  std::vector<MslConstant> constants;
  for (const auto& constant : pipeline.constants) {
    constants.push_back({constant.index, static_cast<int32_t>(constant.bytes.size()), constant.bytes.data()});
  }
  MslLaunch call{};
  call.kernel = pipeline.kernel.c_str();
  call.buffers = operands.buffers().data();
  call.num_buffers = static_cast<int32_t>(operands.buffers().size());
  call.constants = constants.data();
  call.num_constants = static_cast<int32_t>(constants.size());
  std::copy_n(groups.begin(), 3, call.groups);
  std::copy_n(threads.begin(), 3, call.threads);

  std::string report;
  if (recording) report.assign(sizeof(MslReport), '\0');
  const int code = object.launch(&call, recording ? reinterpret_cast<MslReport*>(report.data()) : nullptr);
  if (code != 0) {
    // On a stream's thread nobody could catch an exception.
    std::fprintf(stderr, "Metal emulator: launch of %s failed with code %d\n", call.kernel, code);
    if (recording) std::fprintf(stderr, "%s\n", reinterpret_cast<const MslReport*>(report.data())->messages);
    std::abort();
  }
  operands.finish(call.kernel);
  if (!recording) return;
  const std::lock_guard lock(mutex);
  launched.push_back({pipeline.library->name, call.kernel, groups, threads, std::move(report)});
}

}  // namespace ghost::emulated

namespace mlx::core::metal {

void CommandEncoder::set_compute_pipeline_state(MTL::ComputePipelineState* pipeline) {
  pipeline_ = pipeline;
  bindings_.clear();
}

void CommandEncoder::bind(int index, Binding binding) {
  const auto i = static_cast<size_t>(index);
  if (bindings_.size() <= i) bindings_.resize(i + 1);
  bindings_[i] = std::move(binding);
}

static Binding binding_of(const array& x, int64_t offset, bool output) {
  auto* data = const_cast<char*>(x.data<char>()) + offset;
  const auto phase = static_cast<size_t>(x.offset() + offset) % ghost::emulated::kAlignment;
  return {data, x.data_size() * x.itemsize() - static_cast<size_t>(offset), phase, output, nullptr};
}

void CommandEncoder::set_input_array(const array& x, int index, int64_t offset) {
  bind(index, binding_of(x, offset, false));
}

void CommandEncoder::set_output_array(array& x, int index, int64_t offset) {
  bind(index, binding_of(x, offset, true));
}

void CommandEncoder::copy_bytes(const void* data, size_t bytes, int index) {
  if (bytes > 4096) throw std::runtime_error("set_bytes takes at most 4096 bytes.");
  std::shared_ptr<char[]> copy(new char[bytes]);
  std::memcpy(copy.get(), data, bytes);
  bind(index, {copy.get(), bytes, 0, false, copy});
}

void CommandEncoder::add_temporary(array x) { cpu::get_command_encoder(stream_).add_temporary(std::move(x)); }

void CommandEncoder::dispatch_threadgroups(MTL::Size groups, MTL::Size threads) {
  const auto extent = [](MTL::Size size) {
    return std::array<uint32_t, 3>{static_cast<uint32_t>(size.width), static_cast<uint32_t>(size.height),
                                   static_cast<uint32_t>(size.depth)};
  };
  cpu::get_command_encoder(stream_).dispatch(
      [pipeline = *pipeline_, bindings = bindings_, groups = extent(groups), threads = extent(threads)] {
        ghost::emulated::launch(pipeline, bindings, groups, threads);
      });
}

MTL::Library* Device::get_library(const std::string& name, const std::string& folder) {
  if (!std::filesystem::exists(std::filesystem::path(folder) / (name + ".metallib"))) {
    throw std::runtime_error("there is no library " + name + " in " + folder + ".");
  }
  auto& library = libraries_[name];
  if (!library) library = std::make_unique<MTL::Library>(MTL::Library{name});
  return library.get();
}

MTL::Library* Device::get_library(const std::string& name, const std::function<std::string()>& source) {
  auto& library = libraries_[name];
  if (!library) {
    source();  // throws when the sources are not there
    library = std::make_unique<MTL::Library>(MTL::Library{name});
  }
  return library.get();
}

MTL::ComputePipelineState* Device::get_kernel(const std::string& name, MTL::Library* library,
                                              const std::string& hash, const MTLFCList& constants) {
  ghost::emulated::object_of(library->name, name);
  auto& pipeline = pipelines_[library->name + "/" + (hash.empty() ? name : hash)];
  if (!pipeline) {
    pipeline = std::make_unique<MTL::ComputePipelineState>(MTL::ComputePipelineState{library, name, {}});
    for (const auto& [value, type, index] : constants) {
      const std::string bytes(static_cast<const char*>(value), type == MTL::DataTypeBool ? 1 : 4);
      pipeline->constants.push_back({static_cast<int>(index), bytes});
    }
  }
  return pipeline.get();
}

Device& device(mlx::core::Device) {
  static Device the_device;
  return the_device;
}

CommandEncoder& get_command_encoder(Stream stream) {
  static thread_local std::map<int, std::unique_ptr<CommandEncoder>> encoders;
  auto& encoder = encoders[stream.index];
  if (!encoder) encoder = std::make_unique<CommandEncoder>(stream);
  return *encoder;
}

}  // namespace mlx::core::metal
