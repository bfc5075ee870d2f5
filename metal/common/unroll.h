#pragma once

// Loops over arrays in registers have to unroll: a register cannot be indexed at run time, so an array that
// is moves to memory.
#define GHOST_UNROLL _Pragma("clang loop unroll(full)")
