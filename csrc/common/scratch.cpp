#include "common/scratch.h"

#include <array>
#include <cstdlib>
#include <memory>
#include <new>

namespace ghost {
namespace {

struct Free {
  void operator()(float* p) const { std::free(p); }
};

struct Buffer {
  std::unique_ptr<float, Free> data;
  size_t size = 0;
};

constexpr size_t kAlignment = 64;

}  // namespace

float* scratch(Scratch slot, size_t floats) {
  thread_local std::array<Buffer, static_cast<size_t>(Scratch::count)> buffers;
  Buffer& buffer = buffers[static_cast<size_t>(slot)];
  if (buffer.size < floats || !buffer.data) {
    const size_t bytes = (floats * sizeof(float) / kAlignment + 1) * kAlignment;
    buffer.data.reset();
    buffer.data.reset(static_cast<float*>(std::aligned_alloc(kAlignment, bytes)));
    if (!buffer.data) throw std::bad_alloc();
    buffer.size = floats;
  }
  return buffer.data.get();
}

}  // namespace ghost
