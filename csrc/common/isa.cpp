#include "common/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

namespace ghost {
namespace {

std::vector<Isa> detect() {
  std::vector<Isa> found{Isa::portable};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    found.push_back(Isa::avx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      found.push_back(Isa::avx512);
      if (__builtin_cpu_supports("avx512vnni")) {
        found.push_back(Isa::avx512_vnni);
        if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vbmi")) {
          found.push_back(Isa::avx512_bf16);
        }
      }
    }
  }
#else
  found.push_back(Isa::neon);
#endif
  return found;
}

const std::vector<Isa>& supported() {
  static const std::vector<Isa> isas = detect();
  return isas;
}

Isa parse(const std::string& name) {
  std::string allowed;
  for (Isa isa : supported()) {
    if (name == isa_name(isa)) return isa;
    allowed += std::string(allowed.empty() ? "" : ", ") + isa_name(isa);
  }
  throw std::invalid_argument(
      "[GHOST_NATIVE_ISA] unknown instruction set or not supported by this CPU, given '" + name +
      "', allowed here: " + allowed + ".");
}

std::atomic<Isa>& active() {
  static std::atomic<Isa> isa = [] {
    const char* forced = std::getenv("GHOST_NATIVE_ISA");
    return forced && *forced ? parse(forced) : supported().back();
  }();
  return isa;
}

}  // namespace

Isa active_isa() { return active().load(std::memory_order_relaxed); }

void set_isa(const std::string& name) { active().store(parse(name)); }

const char* isa_name(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::avx512_vnni:
      return "avx512_vnni";
    case Isa::avx512_bf16:
      return "avx512_bf16";
#else
    case Isa::neon:
      return "neon";
#endif
    default:
      return "portable";
  }
}

std::vector<std::string> supported_isas() {
  std::vector<std::string> names;
  for (Isa isa : supported()) names.emplace_back(isa_name(isa));
  return names;
}

}  // namespace ghost
