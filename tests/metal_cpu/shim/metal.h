// The Metal Shading Language as C++20 for clang. Included before a translated source.
#pragma once

#include "atomic.h"
#include "launcher.h"
#include "math.h"
#include "matrix.h"
#include "simd.h"
#include "types.h"

// From here on Metal's words mean what they mean in Metal; nothing of the C++ library may be included any
// more.
#include "keywords.h"
