#include "common/metal.h"

#include <cstdlib>
#include <string>

#include "common/checks.h"
#include "mlx/backend/metal/metal.h"

namespace ghost {
namespace {

constexpr const char* kSwitch = "GHOST_NATIVE_METAL";

bool switched_on() {
  const char* value = std::getenv(kSwitch);
  if (value == nullptr || *value == '\0') return true;
  const std::string text = value;
  require(text == "0" || text == "1", kSwitch, "unknown value, given '", text,
          "', allowed: 0 (GPU streams get MLX's own operations) or 1 (our Metal kernels).");
  return text == "1";
}

}  // namespace

void check_metal_switch() { switched_on(); }

bool metal_available() {
#if defined(GHOST_METAL_EMULATED)
  return switched_on();
#elif defined(GHOST_METAL)
  static const bool available = switched_on() && mx::metal::is_available();
  return available;
#else
  return false;
#endif
}

}  // namespace ghost
