// As much of the Objective-C runtime's header as metal-cpp needs to be type-checked elsewhere.
#pragma once

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
typedef struct objc_class* Class;
typedef struct objc_object {
  Class isa;
}* id;
typedef struct objc_selector* SEL;
typedef struct objc_method* Method;
typedef struct objc_object Protocol;
typedef id (*IMP)(id, SEL, ...);
typedef signed char BOOL;
struct objc_method_description {
  SEL name;
  char* types;
};
Class objc_lookUpClass(const char* name);
Class objc_getClass(const char* name);
Protocol* objc_getProtocol(const char* name);
Class objc_allocateClassPair(Class superclass, const char* name, size_t extra);
void objc_registerClassPair(Class c);
SEL sel_registerName(const char* name);
Class object_getClass(id object);
Class class_getSuperclass(Class c);
BOOL class_addMethod(Class c, SEL name, IMP function, const char* types);
Method class_getInstanceMethod(Class c, SEL name);
IMP method_getImplementation(Method m);
struct objc_method_description protocol_getMethodDescription(Protocol* p, SEL name, BOOL required,
                                                             BOOL instance);
#ifdef __cplusplus
}
#endif

#ifndef nil
#  define nil nullptr
#endif
