// As much of the Objective-C runtime's header as metal-cpp needs to be type-checked elsewhere.
#pragma once

#include <objc/runtime.h>

#ifdef __cplusplus
extern "C" {
#endif
struct objc_super {
  id receiver;
  Class super_class;
};
void objc_msgSend(void);
void objc_msgSend_fpret(void);
void objc_msgSend_stret(void);
void objc_msgSendSuper(void);
#ifdef __cplusplus
}
#endif
