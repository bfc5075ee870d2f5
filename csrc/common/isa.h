#pragma once

#include <string>
#include <vector>

namespace ghost {

// Instruction sets the inner kernels are compiled for, worst to best. A machine that runs one runs those
// before it.
enum class Isa {
  portable,
#if defined(__x86_64__)
  avx2,
  avx512,
  avx512_vnni,  // Cascade Lake and Ice Lake: sources listed for it in CMakeLists.txt, else as avx512
  avx512_bf16,  // also VNNI and VBMI: Zen 4, Sapphire Rapids and later
#else
  neon,
#endif
};

// Chosen once: GHOST_NATIVE_ISA when set (an unknown or unsupported name throws), else the best this CPU has.
Isa active_isa();
void set_isa(const std::string& name);  // tests walk every instruction set in one process
const char* isa_name(Isa isa);
std::vector<std::string> supported_isas();

}  // namespace ghost

// Declares `table` of type `Kernels` for each instruction set and `pick()`, which returns the active one's.
// GHOST_DECLARE_VNNI_KERNELS is for tables of sources that are compiled for avx512_vnni too.
#if defined(__x86_64__)
#  define GHOST_DECLARE_KERNELS_X86(Kernels, table, pick, vnni) \
    namespace portable {                                        \
    extern const Kernels table;                                 \
    }                                                           \
    namespace avx2 {                                            \
    extern const Kernels table;                                 \
    }                                                           \
    namespace avx512 {                                          \
    extern const Kernels table;                                 \
    }                                                           \
    namespace vnni {                                            \
    extern const Kernels table;                                 \
    }                                                           \
    namespace avx512_bf16 {                                     \
    extern const Kernels table;                                 \
    }                                                           \
    inline const Kernels& pick() {                              \
      switch (active_isa()) {                                   \
        case Isa::avx512_bf16:                                  \
          return avx512_bf16::table;                            \
        case Isa::avx512_vnni:                                  \
          return vnni::table;                                   \
        case Isa::avx512:                                       \
          return avx512::table;                                 \
        case Isa::avx2:                                         \
          return avx2::table;                                   \
        default:                                                \
          return portable::table;                               \
      }                                                         \
    }
#  define GHOST_DECLARE_KERNELS(Kernels, table, pick) GHOST_DECLARE_KERNELS_X86(Kernels, table, pick, avx512)
#  define GHOST_DECLARE_VNNI_KERNELS(Kernels, table, pick) \
    GHOST_DECLARE_KERNELS_X86(Kernels, table, pick, avx512_vnni)
#else
#  define GHOST_DECLARE_KERNELS(Kernels, table, pick) \
    namespace portable {                              \
    extern const Kernels table;                       \
    }                                                 \
    namespace neon {                                  \
    extern const Kernels table;                       \
    }                                                 \
    inline const Kernels& pick() { return active_isa() == Isa::neon ? neon::table : portable::table; }
#  define GHOST_DECLARE_VNNI_KERNELS(Kernels, table, pick) GHOST_DECLARE_KERNELS(Kernels, table, pick)
#endif
