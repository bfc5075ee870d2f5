// Faults of a launch: counted, and the first of each place put into words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "abi.h"
#include "machine.h"

namespace msl {

enum class Fault { race, out_of_bounds, uninitialised, divergence, misaligned, over_limit, crash, binding };

class FaultLog {
 public:
  void begin(const char* kernel, MslReport& report);
  // A fault of the current thread at an address of the library's code, or at a line. Never throws.
  void add(Fault fault, const std::string& what, const void* code);
  void add(Fault fault, const std::string& what, Site site);
  // A fault of the launch itself.
  void add(Fault fault, const std::string& what);
  // Writes the messages into the report. Code addresses become lines here, outside of any fiber.
  void finish();

 private:
  struct Entry {
    std::string text;
    const void* code;  // null: the text is complete
  };
  bool count(Fault fault, const void* key);
  void note(Fault fault, const std::string& what, const std::string& where, const void* code);

  const char* kernel_ = "";
  MslReport* report_ = nullptr;
  std::vector<Entry> entries_;
  std::vector<const void*> seen_;
};

extern FaultLog fault_log;

// "op/kernel.h:12" of a code address of this library, or the bare address where no addr2line is installed.
std::string source_line(const void* code);
std::string source_line(Site site);

}  // namespace msl
