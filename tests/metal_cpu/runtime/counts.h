// Executed operations of the `counted` flavour: how often each block of code ran, times what is in it.
#pragma once

#include "abi.h"

namespace msl {

void begin_counting();
void add_operations(MslReport& report);

}  // namespace msl
