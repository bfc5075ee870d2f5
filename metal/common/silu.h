#pragma once

#include <metal_stdlib>

using namespace metal;

METAL_FUNC float sigmoid(float x) { return 1.0f / (1.0f + precise::exp(-x)); }

METAL_FUNC float silu(float x) { return x * sigmoid(x); }

METAL_FUNC float silu_gradient(float x) {
  const float s = sigmoid(x);
  return s * (1.0f + x * (1.0f - s));
}
