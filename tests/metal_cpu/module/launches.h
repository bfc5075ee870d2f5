#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace ghost::emulated {

// One launch as it happened, with the report of a traced library.
struct Launch {
  std::string library;
  std::string kernel;
  std::array<uint32_t, 3> groups;
  std::array<uint32_t, 3> threads;
  std::string report;  // bytes of MslReport
};

// Has the kernels of a .metal file, named by its stem, run from this shared object from now on.
void use_library(const std::string& name, const std::string& shared_object);
std::vector<std::string> libraries();

// While recording, every launch asks for a report.
void record(bool on);
std::vector<Launch> take_launches();

}  // namespace ghost::emulated
