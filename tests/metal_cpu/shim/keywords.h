// Metal's address spaces, constants and constructors of vectors, as macros. The last header of the shim.

#if defined(MSL_STRICT)
// Distinct types, so that a pointer into the wrong address space does not compile. For type checks only.
#  define device __attribute__((address_space(1)))
#  define constant __attribute__((address_space(2))) const
#  define threadgroup __attribute__((address_space(3)))
#else
#  define device
#  define constant const
#  define threadgroup
#endif
#define thread
#define kernel

#define METAL_FUNC inline __attribute__((always_inline))
#define METAL_CONST static constexpr

#undef INFINITY
#undef NAN
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define MAXFLOAT 3.402823466e+38f
#define HUGE_VALF __builtin_inff()
#define M_E_F 2.71828182845904523536f
#define M_LOG2E_F 1.44269504088896340736f
#define M_LOG10E_F 0.43429448190325182765f
#define M_LN2_F 0.69314718055994530942f
#define M_LN10_F 2.30258509299404568402f
#define M_PI_F 3.14159265358979323846f
#define M_PI_2_F 1.57079632679489661923f
#define M_1_PI_F 0.31830988618379067154f
#define M_SQRT2_F 1.41421356237309504880f
#define M_SQRT1_2_F 0.70710678118654752440f

// is_function_constant_defined(x): translate.py declares the flag beside the constant.
#define is_function_constant_defined(name) (name##_msl_defined)

// Function-like macros fire on `float4(` only, so that the types keep their names everywhere else.
#define char2(...) ::msl::make<char2>(__VA_ARGS__)
#define char3(...) ::msl::make<char3>(__VA_ARGS__)
#define char4(...) ::msl::make<char4>(__VA_ARGS__)
#define uchar2(...) ::msl::make<uchar2>(__VA_ARGS__)
#define uchar3(...) ::msl::make<uchar3>(__VA_ARGS__)
#define uchar4(...) ::msl::make<uchar4>(__VA_ARGS__)
#define short2(...) ::msl::make<short2>(__VA_ARGS__)
#define short3(...) ::msl::make<short3>(__VA_ARGS__)
#define short4(...) ::msl::make<short4>(__VA_ARGS__)
#define ushort2(...) ::msl::make<ushort2>(__VA_ARGS__)
#define ushort3(...) ::msl::make<ushort3>(__VA_ARGS__)
#define ushort4(...) ::msl::make<ushort4>(__VA_ARGS__)
#define int2(...) ::msl::make<int2>(__VA_ARGS__)
#define int3(...) ::msl::make<int3>(__VA_ARGS__)
#define int4(...) ::msl::make<int4>(__VA_ARGS__)
#define uint2(...) ::msl::make<uint2>(__VA_ARGS__)
#define uint3(...) ::msl::make<uint3>(__VA_ARGS__)
#define uint4(...) ::msl::make<uint4>(__VA_ARGS__)
#define long2(...) ::msl::make<long2>(__VA_ARGS__)
#define long3(...) ::msl::make<long3>(__VA_ARGS__)
#define long4(...) ::msl::make<long4>(__VA_ARGS__)
#define ulong2(...) ::msl::make<ulong2>(__VA_ARGS__)
#define ulong3(...) ::msl::make<ulong3>(__VA_ARGS__)
#define ulong4(...) ::msl::make<ulong4>(__VA_ARGS__)
#define half2(...) ::msl::make<half2>(__VA_ARGS__)
#define half3(...) ::msl::make<half3>(__VA_ARGS__)
#define half4(...) ::msl::make<half4>(__VA_ARGS__)
#define bfloat2(...) ::msl::make<bfloat2>(__VA_ARGS__)
#define bfloat3(...) ::msl::make<bfloat3>(__VA_ARGS__)
#define bfloat4(...) ::msl::make<bfloat4>(__VA_ARGS__)
#define float2(...) ::msl::make<float2>(__VA_ARGS__)
#define float3(...) ::msl::make<float3>(__VA_ARGS__)
#define float4(...) ::msl::make<float4>(__VA_ARGS__)
