// As much of Apple's header of this name as metal-cpp needs to be type-checked elsewhere.
#pragma once

typedef struct CGColorSpace* CGColorSpaceRef;
