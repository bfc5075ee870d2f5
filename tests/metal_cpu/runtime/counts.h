// Executed operations of the `counted` flavour: how often each block of code ran, times what is in it.
#pragma once

#include "abi.h"
#include "machine.h"

namespace msl {

void begin_counting(const Library& library);
void add_operations(const Library& library, MslReport& report);

}  // namespace msl
