#include "launches.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "abi.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/backend/metal/device.h"

namespace ghost::emulated {
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

// The library that has a kernel, by the name the host gave: "ghost_native_<version>_<stem>".
static SharedObject object_of(const std::string& library) {
  const std::lock_guard lock(mutex);
  for (const auto& [name, object] : objects()) {
    const std::string ending = "_" + name;
    if (library.ends_with(GHOST_VERSION + ending)) return object.second;
  }
  throw std::runtime_error("library " + library + " was not compiled.");
}

static void launch(const MTL::ComputePipelineState& pipeline, MslLaunch call) {
  const SharedObject object = object_of(pipeline.library->name);
  std::string report;
  if (recording) report.assign(sizeof(MslReport), '\0');
  const int code = object.launch(&call, recording ? reinterpret_cast<MslReport*>(report.data()) : nullptr);
  if (code != 0) {
    // On a stream's thread: nobody could catch an exception.
    std::fprintf(stderr, "Metal emulator: launch of %s failed with code %d\n", call.kernel, code);
    std::abort();
  }
  if (!recording) return;
  const std::lock_guard lock(mutex);
  Launch done{pipeline.library->name, call.kernel, {}, {}, std::move(report)};
  std::copy_n(call.groups, 3, done.groups.begin());
  std::copy_n(call.threads, 3, done.threads.begin());
  launched.push_back(std::move(done));
}

}  // namespace ghost::emulated

namespace mlx::core::metal {

using ghost::emulated::launch;

void CommandEncoder::set_compute_pipeline_state(MTL::ComputePipelineState* pipeline) {
  pipeline_ = pipeline;
  bindings_.clear();
}

void CommandEncoder::bind(int index, Binding binding) {
  const auto i = static_cast<size_t>(index);
  if (bindings_.size() <= i) bindings_.resize(i + 1);
  bindings_[i] = std::move(binding);
}

void CommandEncoder::set_input_array(const array& x, int index, int64_t offset) {
  auto* data = const_cast<char*>(x.data<char>()) + offset;
  bind(index, {data, x.data_size() * x.itemsize() - static_cast<size_t>(offset), nullptr});
}

void CommandEncoder::set_output_array(array& x, int index, int64_t offset) {
  set_input_array(x, index, offset);
}

void CommandEncoder::copy_bytes(const void* data, size_t bytes, int index) {
  if (bytes > 4096) throw std::runtime_error("set_bytes takes at most 4096 bytes.");
  // Aligned as a GPU's constants are.
  const size_t padded = (bytes + 15) / 16 * 16;
  std::shared_ptr<char[]> copy(static_cast<char*>(std::aligned_alloc(16, padded)),
                               [](char* p) { std::free(p); });
  std::memcpy(copy.get(), data, bytes);
  bind(index, {copy.get(), bytes, copy});
}

void CommandEncoder::add_temporary(array x) { cpu::get_command_encoder(stream_).add_temporary(std::move(x)); }

void CommandEncoder::dispatch_threadgroups(MTL::Size groups, MTL::Size threads) {
  const auto extent = [](MTL::Size size) {
    return std::array<uint32_t, 3>{static_cast<uint32_t>(size.width), static_cast<uint32_t>(size.height),
                                   static_cast<uint32_t>(size.depth)};
  };
  cpu::get_command_encoder(stream_).dispatch(
      [pipeline = *pipeline_, bindings = bindings_, groups = extent(groups), threads = extent(threads)] {
        std::vector<MslBuffer> buffers;
        for (const auto& binding : bindings) buffers.push_back({binding.data, binding.bytes});
        std::vector<MslConstant> constants;
        for (const auto& constant : pipeline.constants) {
          constants.push_back(
              {constant.index, static_cast<int32_t>(constant.bytes.size()), constant.bytes.data()});
        }
        MslLaunch call{};
        call.kernel = pipeline.kernel.c_str();
        call.buffers = buffers.data();
        call.num_buffers = static_cast<int32_t>(buffers.size());
        call.constants = constants.data();
        call.num_constants = static_cast<int32_t>(constants.size());
        std::copy_n(groups.begin(), 3, call.groups);
        std::copy_n(threads.begin(), 3, call.threads);
        launch(pipeline, call);
      });
}

MTL::Library* Device::get_library(const std::string& name, const std::string&) {
  throw std::runtime_error("library " + name + " was looked for ahead of time.");
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
  if (!ghost::emulated::object_of(library->name).has_kernel(name.c_str())) {
    throw std::runtime_error("library " + library->name + " has no kernel " + name + ".");
  }
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
