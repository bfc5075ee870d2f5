#pragma once

// Where operators have Metal kernels, and what an operator's class declares for them. The macros keep one
// class declaration for three builds:
// - GHOST_METAL, on Apple's systems: eval_gpu is defined in <op>_metal.cpp.
// - GHOST_METAL_EMULATED, tests without a GPU: eval_gpu too, which the CPU stream runs. There are no CPU
//   kernels in this build.
// - Neither: GPU streams get the composed form, so there is no eval_gpu.
#if defined(GHOST_METAL_EMULATED)
#  define GHOST_EVAL_CPU
#  define GHOST_EVAL void eval_gpu(const Arrays& inputs, Arrays& outputs) override;
#elif defined(GHOST_METAL)
#  define GHOST_EVAL_CPU void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
#  define GHOST_EVAL                                               \
    void eval_cpu(const Arrays& inputs, Arrays& outputs) override; \
    void eval_gpu(const Arrays& inputs, Arrays& outputs) override;
#else
#  define GHOST_EVAL_CPU void eval_cpu(const Arrays& inputs, Arrays& outputs) override;
#  define GHOST_EVAL GHOST_EVAL_CPU
#endif

namespace ghost {

// True when this build has Metal kernels, there is a Metal device, and GHOST_NATIVE_METAL is not 0.
bool metal_available();

// Throws on a value of GHOST_NATIVE_METAL other than 0 and 1.
void check_metal_switch();

}  // namespace ghost
