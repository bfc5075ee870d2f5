#include "common/activation.h"

#include "common/checks.h"

namespace ghost {

Activation parse_activation(const char* op, const std::string& name, bool int8) {
  if (name == "float32") return Activation::float32;
  if (name == "bfloat16") return Activation::bfloat16;
  if (name == "int8" && int8) return Activation::int8;
  fail(op, "unknown activation, given '", name, "', allowed: 'float32', 'bfloat16'",
       int8 ? ", 'int8'." : ".");
}

}  // namespace ghost
