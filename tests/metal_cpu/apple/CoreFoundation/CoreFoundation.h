// As much of Apple's header of this name as metal-cpp needs to be type-checked elsewhere.
#pragma once

#include <stdint.h>

#define CF_ENUM(...) enum

#ifdef __cplusplus
extern "C" {
#endif
typedef const void* CFTypeRef;
typedef const struct __CFString* CFStringRef;
typedef double CFTimeInterval;
typedef double CFAbsoluteTime;
typedef double CGFloat;
typedef long CFIndex;
typedef unsigned char UInt8;
typedef unsigned int UInt32;
CFTypeRef CFRetain(CFTypeRef object);
void CFRelease(CFTypeRef object);
#ifdef __cplusplus
}
#endif
