# The operators with their Metal kernels, on the CPU stream: host code and kernels as on a Mac, with a test double of
# MLX's Metal device that runs kernels compiled for the CPU.
set(GHOST_EMULATED_SOURCES ${GHOST_SOURCES})
list(FILTER GHOST_EMULATED_SOURCES EXCLUDE REGEX "_cpu\\.cpp$")
ghost_module(_ext_metal_cpu ${CMAKE_CURRENT_LIST_DIR}/bindings.cpp ${CMAKE_CURRENT_LIST_DIR}/launches.cpp
             ${GHOST_EMULATED_SOURCES} ${GHOST_METAL_SOURCES} ${GHOST_METAL_EMBEDDED})
target_compile_definitions(_ext_metal_cpu PRIVATE GHOST_METAL GHOST_METAL_EMULATED)
target_compile_options(_ext_metal_cpu PRIVATE -O1)
# Before MLX's own headers, whose place mlx/backend/metal/device.h takes.
target_include_directories(_ext_metal_cpu BEFORE PRIVATE ${CMAKE_CURRENT_LIST_DIR} ${CMAKE_CURRENT_LIST_DIR}/../runtime)
