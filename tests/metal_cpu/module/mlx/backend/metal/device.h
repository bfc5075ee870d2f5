// A test double of MLX's header of this name, with as much of its interface as csrc/common/metal_kernel.cpp
// uses. Launches go to kernels compiled for the CPU, in order on the CPU stream.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "mlx/array.h"
#include "mlx/device.h"
#include "mlx/stream.h"

namespace NS {
using UInteger = unsigned long;
}

namespace MTL {

struct Size {
  NS::UInteger width, height, depth;
  Size(NS::UInteger w, NS::UInteger h, NS::UInteger d) : width(w), height(h), depth(d) {}
};

enum DataType { DataTypeInt = 29, DataTypeBool = 53 };

// A .metal file, by its stem; the kernels are looked up when they run.
struct Library {
  std::string name;
};

struct ComputePipelineState {
  struct Constant {
    int index;
    std::string bytes;
  };
  Library* library;
  std::string kernel;
  std::vector<Constant> constants;

  NS::UInteger maxTotalThreadsPerThreadgroup() const { return 1024; }
  NS::UInteger threadExecutionWidth() const { return 32; }
};

}  // namespace MTL

namespace mlx::core::metal {

// What is bound to a buffer index. `phase` is where in its buffer the operand begins, as far as alignment
// goes: a GPU's buffers begin on a page, a CPU's may begin anywhere.
struct Binding {
  char* data = nullptr;
  size_t bytes = 0;
  size_t phase = 0;
  bool output = false;
  std::shared_ptr<char[]> copy;  // of set_bytes
};

using MTLFCList = std::vector<std::tuple<const void*, MTL::DataType, NS::UInteger>>;

class CommandEncoder {
 public:
  explicit CommandEncoder(Stream stream) : stream_(stream) {}

  void set_compute_pipeline_state(MTL::ComputePipelineState* pipeline);
  void set_input_array(const array& x, int index, int64_t offset = 0);
  void set_output_array(array& x, int index, int64_t offset = 0);
  template <class T>
  void set_bytes(const T* values, int n, int index) {
    copy_bytes(values, static_cast<size_t>(n) * sizeof(T), index);
  }
  template <class T>
  void set_bytes(const T& value, int index) {
    copy_bytes(&value, sizeof(T), index);
  }
  void add_temporary(array x);
  void dispatch_threadgroups(MTL::Size groups, MTL::Size threads);

 private:
  void copy_bytes(const void* data, size_t bytes, int index);
  void bind(int index, Binding binding);

  Stream stream_;
  MTL::ComputePipelineState* pipeline_ = nullptr;
  std::vector<Binding> bindings_;
};

class Device {
 public:
  MTL::Library* get_library(const std::string& name, const std::string& folder = "");
  MTL::Library* get_library(const std::string& name, const std::function<std::string()>& source);
  MTL::ComputePipelineState* get_kernel(const std::string& name, MTL::Library* library,
                                        const std::string& hash = "", const MTLFCList& constants = {});

 private:
  std::map<std::string, std::unique_ptr<MTL::Library>> libraries_;
  std::map<std::string, std::unique_ptr<MTL::ComputePipelineState>> pipelines_;
};

Device& device(mlx::core::Device);
CommandEncoder& get_command_encoder(Stream stream);

}  // namespace mlx::core::metal
