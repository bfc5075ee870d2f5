#include "faults.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>

namespace msl {
namespace {

constexpr size_t kMaxMessages = 24;

const char* name_of(Fault fault) {
  switch (fault) {
    case Fault::race:
      return "race";
    case Fault::out_of_bounds:
      return "out of bounds";
    case Fault::uninitialised:
      return "uninitialised";
    case Fault::divergence:
      return "divergence";
    case Fault::misaligned:
      return "misaligned";
    case Fault::over_limit:
      return "over the limit";
    case Fault::crash:
      return "crash";
    case Fault::binding:
      return "binding";
  }
  return "";
}

uint64_t* counter_of(Fault fault, MslReport& report) {
  switch (fault) {
    case Fault::race:
      return &report.races;
    case Fault::out_of_bounds:
      return &report.out_of_bounds;
    case Fault::uninitialised:
      return &report.uninitialised;
    case Fault::divergence:
      return &report.divergences;
    case Fault::misaligned:
      return &report.misaligned;
    case Fault::over_limit:
      return &report.over_limit;
    case Fault::crash:
    case Fault::binding:
      return nullptr;
  }
  return nullptr;
}

std::string triple(Index3 i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

// The folder and the file: enough to find it, short enough to read.
std::string short_path(const std::string& path) {
  size_t slash = path.rfind('/');
  if (slash == std::string::npos || slash == 0) return path;
  slash = path.rfind('/', slash - 1);
  return slash == std::string::npos ? path : path.substr(slash + 1);
}

// The lines that a code address stands for, innermost inlined function first.
std::vector<std::string> ask_symbolizer(const char* library, uintptr_t offset) {
  std::vector<std::string> lines;
  for (const char* tool : {"addr2line -i -e", "llvm-symbolizer -i -f=none --output-style=GNU -e"}) {
    char command[4608];
    std::snprintf(command, sizeof(command), "%s '%s' 0x%zx 2>/dev/null", tool, library,
                  static_cast<size_t>(offset));
    FILE* pipe = popen(command, "r");
    if (!pipe) continue;
    char line[4096];
    while (std::fgets(line, sizeof(line), pipe)) {
      std::string text(line, std::strcspn(line, " \n"));
      if (!text.empty() && text[0] != '?') lines.push_back(text);
    }
    pclose(pipe);
    if (!lines.empty()) break;
  }
  return lines;
}

}  // namespace

FaultLog fault_log;

std::string source_line(Site site) { return short_path(site.file) + ":" + std::to_string(site.line); }

std::string source_line(const void* code) {
  static std::map<const void*, std::string> known;
  auto [place, is_new] = known.try_emplace(code);
  if (!is_new) return place->second;
  Dl_info info;
  if (!dladdr(code, &info)) return place->second = "an unknown place";
  // One byte back: a return address is the instruction after the call.
  const auto offset = reinterpret_cast<uintptr_t>(code) - reinterpret_cast<uintptr_t>(info.dli_fbase) - 1;
  for (const std::string& line : ask_symbolizer(info.dli_fname, offset)) {
    // Inlined library functions are stepped out of: the fault is where Metal code calls them.
    if (line.find("/metal_cpu/shim/") != std::string::npos) continue;
    if (line.find("/metal_cpu/runtime/") != std::string::npos) continue;
    return place->second = short_path(line);
  }
  char text[64];
  std::snprintf(text, sizeof(text), "code at +0x%zx", static_cast<size_t>(offset));
  return place->second = text;
}

void FaultLog::begin(const char* kernel, MslReport& report) {
  kernel_ = kernel;
  report_ = &report;
  entries_.clear();
  seen_.clear();
}

// Counts the fault; true when it is the first at this place.
bool FaultLog::count(Fault fault, const void* key) {
  if (uint64_t* counter = counter_of(fault, *report_)) ++*counter;
  if (entries_.size() >= kMaxMessages) return false;
  // The kind is part of the key, in bits that code addresses of one library do not differ in.
  const auto* marked = static_cast<const char*>(key) + (static_cast<uintptr_t>(fault) << 56);
  if (key && std::find(seen_.begin(), seen_.end(), marked) != seen_.end()) return false;
  seen_.push_back(marked);
  return true;
}

void FaultLog::note(Fault fault, const std::string& what, const std::string& where, const void* code) {
  std::string text = std::string(name_of(fault)) + ": " + what + " [" + kernel_;
  if (thread_now) {
    text += ", threadgroup " + triple(group_now) + ", thread " + std::to_string(thread_now->index);
  }
  text += "]";
  if (!where.empty()) text += " at " + where;
  entries_.push_back({text, code});
}

void FaultLog::add(Fault fault, const std::string& what, const void* code) {
  if (count(fault, code)) note(fault, what, "", code);
}

void FaultLog::add(Fault fault, const std::string& what, Site site) {
  if (count(fault, site.file + site.line)) note(fault, what, source_line(site), nullptr);
}

void FaultLog::add(Fault fault, const std::string& what) {
  if (count(fault, nullptr)) note(fault, what, "", nullptr);
}

void FaultLog::finish() {
  std::string all;
  for (const Entry& entry : entries_) {
    all += entry.text;
    if (entry.code) all += " at " + source_line(entry.code);
    all += "\n";
  }
  if (all.size() >= MSL_MESSAGE_BYTES) all.resize(MSL_MESSAGE_BYTES - 1);
  std::memcpy(report_->messages, all.c_str(), all.size() + 1);
}

}  // namespace msl
