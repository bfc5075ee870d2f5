#include "common/metal_kernel.h"

#include <dlfcn.h>

#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <vector>

namespace ghost {
namespace {

// The version is part of every name: MLX keeps libraries by name for the whole process.
constexpr const char* kPrefix = "ghost_native_" GHOST_VERSION;

// Looked up once: every launch asks.
const std::string& folder_of_module() {
  static const std::string folder = []() -> std::string {
    Dl_info info;
    if (!dladdr(reinterpret_cast<const void*>(&folder_of_module), &info)) return {};
    return std::filesystem::path(info.dli_fname).parent_path().string();
  }();
  return folder;
}

// Compiled when the package was built, where the Metal compiler was there.
bool has_metallib() {
  static const bool found = std::filesystem::exists(std::filesystem::path(folder_of_module()) /
                                                    (kPrefix + std::string(".metallib")));
  return found;
}

MTL::Library* find_library(mx::metal::Device& device, const char* library) {
  if (has_metallib()) return device.get_library(kPrefix, folder_of_module());
  return device.get_library(std::string(kPrefix) + "_" + library,
                            [library] { return metal_source(library); });
}

[[noreturn]] void fail_kernel(const std::string& name, const std::string& why) {
  throw std::runtime_error(
      "[ghost_native] the Metal kernel " + name + " cannot be used here: " + why +
      "\nSet the environment variable GHOST_NATIVE_METAL=0 before import to run this operator "
      "as MLX's own operations, and please report the message.");
}

MTL::ComputePipelineState* find_kernel(const mx::Stream& stream, const char* library, const std::string& name,
                                       std::initializer_list<MetalConstant> constants) {
  mx::metal::MTLFCList list;
  std::string hash = name;
  for (const auto& [index, value] : constants) {
    const auto at = static_cast<NS::UInteger>(index);
    if (const bool* flag = std::get_if<bool>(&value)) {
      list.emplace_back(flag, MTL::DataTypeBool, at);
      hash += "_" + std::to_string(index) + (*flag ? "t" : "f");
    } else {
      list.emplace_back(&std::get<int>(value), MTL::DataTypeInt, at);
      hash += "_" + std::to_string(index) + "i" + std::to_string(std::get<int>(value));
    }
  }
  MTL::ComputePipelineState* kernel = nullptr;
  try {
    auto& device = mx::metal::device(stream.device);
    kernel = device.get_kernel(name, find_library(device, library), hash, list);
  } catch (const std::exception& error) {
    fail_kernel(name, error.what());
  }
  if (kernel->threadExecutionWidth() != static_cast<NS::UInteger>(kSimdWidth)) {
    fail_kernel(name, "SIMD-groups have " + std::to_string(kernel->threadExecutionWidth()) +
                          " threads, given a kernel written for 32.");
  }
  return kernel;
}

void set_memory(mx::array& x) {
  x.set_data(mx::allocator::malloc(x.nbytes()));
#if defined(GHOST_METAL_EMULATED)
  // NaN, or a number that no kernel writes: no test passes on memory that nobody wrote.
  std::memset(x.data<char>(), mx::issubdtype(x.dtype(), mx::floating) ? 0xff : 0x5a, x.nbytes());
#endif
}

}  // namespace

MetalKernel::MetalKernel(const mx::Stream& stream, const char* library, const std::string& name,
                         std::initializer_list<MetalConstant> constants)
    : stream_(stream),
      encoder_(mx::metal::get_command_encoder(stream)),
      pipeline_(find_kernel(stream, library, name, constants)),
      name_(name) {
  encoder_.set_compute_pipeline_state(pipeline_);
}

MetalKernel& MetalKernel::input(const mx::array& x) {
  // An empty array may have no memory to bind.
  if (x.size() == 0) return absent();
  encoder_.set_input_array(x, next_++);
  return *this;
}

MetalKernel& MetalKernel::output(mx::array& x) {
  if (x.size() == 0) return absent_output();
  encoder_.set_output_array(x, next_++);
  return *this;
}

MetalKernel& MetalKernel::absent() {
  static constexpr char zeros[16] = {};
  encoder_.set_bytes(zeros, sizeof(zeros), next_++);
  return *this;
}

MetalKernel& MetalKernel::absent_output() {
  // Bound as an input: nobody has to wait for what is not written.
  encoder_.set_input_array(temporary(stream_, {4}, mx::float32), next_++);
  return *this;
}

void MetalKernel::run(Extent groups, Extent threads) {
  if (groups.x <= 0 || groups.y <= 0 || groups.z <= 0) return;
  const auto size = [](Extent e) {
    return MTL::Size(static_cast<NS::UInteger>(e.x), static_cast<NS::UInteger>(e.y),
                     static_cast<NS::UInteger>(e.z));
  };
  const auto wanted =
      static_cast<size_t>(threads.x) * static_cast<size_t>(threads.y) * static_cast<size_t>(threads.z);
  if (wanted > pipeline_->maxTotalThreadsPerThreadgroup()) {
    fail_kernel(name_, "it needs " + std::to_string(wanted) +
                           " threads a threadgroup, this device gives it " +
                           std::to_string(pipeline_->maxTotalThreadsPerThreadgroup()) + ".");
  }
  encoder_.dispatch_threadgroups(size(groups), size(threads));
}

void allocate(Arrays& outputs) {
  for (auto& out : outputs) set_memory(out);
}

mx::array temporary(const mx::Stream& stream, mx::Shape shape, mx::Dtype dtype) {
  mx::array x(std::move(shape), dtype, nullptr, {});
  set_memory(x);
  mx::metal::get_command_encoder(stream).add_temporary(x);
  return x;
}

std::string metal_dtype(mx::Dtype dtype) {
  switch (dtype.val()) {
    case mx::Dtype::Val::float16:
      return "float16";
    case mx::Dtype::Val::bfloat16:
      return "bfloat16";
    default:
      return "float32";
  }
}

}  // namespace ghost
