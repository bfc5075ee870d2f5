#pragma once

#include <initializer_list>
#include <string>
#include <variant>

#include "common/primitive.h"
#include "mlx/backend/metal/device.h"

namespace ghost {

constexpr int kSimdWidth = 32;

struct Extent {
  int x = 1;
  int y = 1;
  int z = 1;
};

// The value of a function constant.
struct MetalConstant {
  int index;
  std::variant<bool, int> value;
};

// One launch of a Metal kernel. Operands bind to buffers 0, 1, 2, ... in the order of the calls. `library` is
// the stem of the .metal file that has the kernel.
class MetalKernel {
 public:
  MetalKernel(const mx::Stream& stream, const char* library, const std::string& name,
              std::initializer_list<MetalConstant> constants = {});

  MetalKernel& input(const mx::array& x);
  MetalKernel& output(mx::array& x);
  // An input or an output that this call has not got. The kernel must not touch it; something is bound, so
  // that every argument has a buffer, and for an output something that may be written to, as Metal's
  // validation asks.
  MetalKernel& absent();
  MetalKernel& absent_output();
  template <class P>
  MetalKernel& params(const P& p) {
    encoder_.set_bytes(p, next_++);
    return *this;
  }

  // Nothing is launched when an extent is zero.
  void run(Extent threadgroups, Extent threads);

 private:
  mx::Stream stream_;
  mx::metal::CommandEncoder& encoder_;
  MTL::ComputePipelineState* pipeline_;
  std::string name_;
  int next_ = 0;
};

// Memory for all outputs.
void allocate(Arrays& outputs);

// Scratch of a launch; it lives until the stream has used it.
mx::array temporary(const mx::Stream& stream, mx::Shape shape, mx::Dtype dtype);

// The name of a dtype in the names of kernels: float32, float16, bfloat16.
std::string metal_dtype(mx::Dtype dtype);

// The sources of a library with all includes of ours resolved, for compilation at first use. Throws when
// there is no such library.
std::string metal_source(const std::string& library);

inline int ceil_div(int n, int by) { return (n + by - 1) / by; }

}  // namespace ghost
