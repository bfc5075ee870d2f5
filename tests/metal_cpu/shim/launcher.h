// From a kernel function to something the machine can start: arguments by the attributes of the parameters.
#pragma once

#include "../runtime/machine.h"
#include "types.h"

namespace msl {

// The attribute of one parameter; the index is a buffer's.
template <Source source_, int index_ = 0>
struct From {
  static constexpr Source source = source_;
  static constexpr int index = index_;
};

template <class T>
MSL_UNTRACED inline T from_index(Index3 i) {
  if constexpr (is_vector<T>) {
    using E = ElementOf<T>;
    if constexpr (size_of<T> == 2) {
      return T{E(i.x), E(i.y)};
    } else {
      return T{E(i.x), E(i.y), E(i.z)};
    }
  } else {
    return T(i.x);
  }
}

template <class T, class F>
MSL_UNTRACED inline T argument() {
  if constexpr (F::source == Source::buffer) {
    static_assert(std::is_pointer_v<T> || std::is_reference_v<T>,
                  "[[buffer]] parameters are pointers or references");
    char* data = bindings_now[F::index].data;
    if constexpr (std::is_pointer_v<T>) {
      return (T)data;
    } else {
      return *(std::remove_reference_t<T>*)data;
    }
  } else {
    const Thread& t = *thread_now;
    const Grid& grid = grid_now;
    const auto simdgroups = [&] {
      const Index3& n = grid.group_threads;
      return (n.x * n.y * n.z + kSimdWidth - 1) / kSimdWidth;
    };
    switch (F::source) {
      case Source::thread_position_in_grid:
        return from_index<T>({group_now.x * grid.group_threads.x + t.in_group.x,
                              group_now.y * grid.group_threads.y + t.in_group.y,
                              group_now.z * grid.group_threads.z + t.in_group.z});
      case Source::threadgroup_position_in_grid:
        return from_index<T>(group_now);
      case Source::thread_position_in_threadgroup:
        return from_index<T>(t.in_group);
      case Source::thread_index_in_threadgroup:
        return from_index<T>({t.index, 0, 0});
      case Source::thread_index_in_simdgroup:
        return from_index<T>({t.lane, 0, 0});
      case Source::simdgroup_index_in_threadgroup:
        return from_index<T>({t.simdgroup, 0, 0});
      case Source::threads_per_threadgroup:
        return from_index<T>(grid.group_threads);
      case Source::threads_per_grid:
        return from_index<T>(grid.threads);
      case Source::threadgroups_per_grid:
        return from_index<T>(grid.groups);
      case Source::simdgroups_per_threadgroup:
        return from_index<T>({simdgroups(), 0, 0});
      case Source::threads_per_simdgroup:
        return from_index<T>({kSimdWidth, 0, 0});
      case Source::quadgroup_index_in_threadgroup:
        return from_index<T>({t.index / 4, 0, 0});
      case Source::thread_index_in_quadgroup:
        return from_index<T>({t.index % 4, 0, 0});
      default:
        __builtin_unreachable();
    }
  }
}

template <class T>
constexpr size_t bytes_needed() {
  if constexpr (std::is_reference_v<T>) {
    return sizeof(std::remove_reference_t<T>);
  } else {
    return 0;
  }
}

template <class T>
constexpr bool is_writable() {
  return !std::is_const_v<std::remove_pointer_t<std::remove_reference_t<T>>>;
}

template <auto kernel, class... Sources>
struct Entry;

template <class... Parameters, void (*kernel)(Parameters...), class... Sources>
struct Entry<kernel, Sources...> {
  static_assert(sizeof...(Parameters) == sizeof...(Sources));
  static constexpr int num_buffers = ((Sources::source == Source::buffer) + ... + 0);
  struct Buffers {
    BufferArgument list[num_buffers + 1];
  };
  static constexpr Buffers buffers = [] {
    Buffers all{};
    int n = 0;
    ((Sources::source == Source::buffer
          ? void(all.list[n++] =
                     BufferArgument{Sources::index, bytes_needed<Parameters>(), is_writable<Parameters>()})
          : void()),
     ...);
    return all;
  }();

  MSL_UNTRACED static void run() {
    // A call of its own where code is instrumented: inlined it would share the launcher's exemption.
#if defined(MSL_FAST)
    kernel(argument<Parameters, Sources>()...);
#else
    [[clang::noinline]] kernel(argument<Parameters, Sources>()...);
#endif
  }
};

#if defined(MSL_TRACED)
inline Library library = {.is_traced = true};
#else
inline Library library = {};
#endif

struct AddKernel : Kernel {
  template <class E>
  AddKernel(const char* name, E) : Kernel{name, &E::run, E::buffers.list, E::num_buffers, library.kernels} {
    library.kernels = this;
  }
};

struct AddConstant : FunctionConstant {
  template <class T>
  AddConstant(int index, T& value, bool& defined)
      : FunctionConstant{index, &value, sizeof(value), &defined, library.constants} {
    library.constants = this;
  }
};

}  // namespace msl

#define MSL_KERNEL(id, name, ...) static ::msl::AddKernel msl_kernel_##id(name, ::msl::Entry<__VA_ARGS__>{});

#define MSL_EXPORT extern "C" __attribute__((visibility("default")))
MSL_EXPORT inline __attribute__((used)) int msl_has_kernel(const char* name) {
  return ::msl::has_kernel(::msl::library, name);
}
MSL_EXPORT inline __attribute__((used)) const char* msl_kernels(void) {
  return ::msl::kernel_names(::msl::library);
}
MSL_EXPORT inline __attribute__((used)) int msl_launch(const MslLaunch* launch, MslReport* report) {
  return ::msl::launch(::msl::library, *launch, report);
}

#if defined(MSL_COUNTED)
// Written by tests/metal_cpu/operations.py from the library's intermediate code.
extern "C" const uint16_t msl_block_operations[][MSL_OPERATION_CLASSES];

extern "C" inline __attribute__((used, no_sanitize("coverage"))) void __sanitizer_cov_trace_pc_guard_init(
    uint32_t* begin, uint32_t* end) {
  ::msl::library.first_block = ::msl::number_blocks(begin, end);
  ::msl::library.num_blocks = uint32_t(end - begin);
  ::msl::library.block_operations = msl_block_operations;
}
#endif
