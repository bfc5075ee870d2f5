#include "traffic.h"

#include <algorithm>

namespace msl {
namespace {

constexpr uint64_t kSegment = 64;
constexpr uint64_t kBanks = 32;
constexpr uint64_t kBankBytes = 4;

struct Span {
  uint64_t begin;
  uint64_t end;
};

// The bytes that the lanes touch, as sorted disjoint spans. Returns how many there are.
uint32_t spans_of(const uint64_t* addresses, uint32_t lanes, uint32_t bytes, Span* spans) {
  uint64_t sorted[kSimdWidth];
  uint32_t n = 0;
  bool in_order = true;
  for (uint32_t rest = lanes; rest; rest &= rest - 1) {
    sorted[n] = addresses[__builtin_ctz(rest)];
    in_order &= n == 0 || sorted[n - 1] <= sorted[n];
    ++n;
  }
  if (!in_order) std::sort(sorted, sorted + n);
  uint32_t count = 0;
  for (uint32_t i = 0; i < n; ++i) {
    if (count && sorted[i] <= spans[count - 1].end) {
      spans[count - 1].end = std::max(spans[count - 1].end, sorted[i] + bytes);
    } else {
      spans[count++] = {sorted[i], sorted[i] + bytes};
    }
  }
  return count;
}

// Calls f with every unit of `size` bytes that the spans touch, each once.
template <class F>
void each_unit(const Span* spans, uint32_t count, uint64_t size, F f) {
  uint64_t next = 0;
  for (uint32_t i = 0; i < count; ++i) {
    uint64_t unit = std::max(spans[i].begin / size, next);
    for (; unit <= (spans[i].end - 1) / size; ++unit) f(unit);
    next = std::max(next, unit);
  }
}

}  // namespace

void Traffic::begin(MslReport& report) {
  report_ = &report;
  places_.clear();
  last_place_ = nullptr;
}

Traffic::Place& Traffic::place_of(const void* code, bool writes) {
  const uint64_t key = reinterpret_cast<uint64_t>(code) * 2 + writes;
  if (last_place_ && key == last_key_) return *last_place_;
  Place& place = places_[key];
  place.writes = writes;
  if (place.streams.empty()) place.streams.resize(kMaxThreads / kSimdWidth);
  last_key_ = key;
  last_place_ = &place;
  return place;
}

void Traffic::access(const void* code, int buffer, uint64_t address, uint32_t bytes, bool writes) {
  const Thread& t = *thread_now;
  Stream& stream = place_of(code, writes).streams[t.simdgroup];
  const uint32_t number = stream.executions[t.lane]++ - stream.first;
  if (number >= stream.pending.size()) stream.pending.resize(number + 1);
  Instruction& instruction = stream.pending[number];
  instruction.lanes |= 1u << t.lane;
  instruction.bytes = std::max(instruction.bytes, bytes);
  instruction.buffer = buffer;
  instruction.addresses[t.lane] = address;
  // Complete when every lane that has not returned took part. Lanes run one after another, so most
  // instructions are measured soon and their memory is used again.
  if ((instruction.lanes & t.simd->live) != t.simd->live) return;
  measure(instruction, writes);
  instruction.done = true;
  if (number + 1 == stream.pending.size() && std::all_of(stream.pending.begin(), stream.pending.end(),
                                                         [](const Instruction& i) { return i.done; })) {
    stream.first += number + 1;
    stream.pending.clear();
  }
}

void Traffic::end_group() {
  for (auto& [key, place] : places_) {
    for (Stream& stream : place.streams) {
      for (const Instruction& instruction : stream.pending) {
        if (!instruction.done && instruction.lanes) measure(instruction, place.writes);
      }
      stream.pending.clear();
      stream.first = 0;
      std::fill_n(stream.executions, kSimdWidth, 0);
    }
  }
}

void Traffic::measure(const Instruction& instruction, bool writes) {
  Span spans[kSimdWidth];
  const uint32_t count = spans_of(instruction.addresses, instruction.lanes, instruction.bytes, spans);
  if (instruction.buffer == kThreadgroup) {
    // Different words of one bank are served one after another.
    uint32_t load[kBanks] = {};
    uint64_t words = 0;
    each_unit(spans, count, kBankBytes, [&](uint64_t word) {
      ++load[word % kBanks];
      ++words;
    });
    report_->bank_cycles += *std::max_element(load, load + kBanks);
    report_->bank_cycles_ideal += (words + kBanks - 1) / kBanks;
    return;
  }
  uint64_t unique = 0;
  for (uint32_t i = 0; i < count; ++i) unique += spans[i].end - spans[i].begin;
  uint64_t segments = 0;
  each_unit(spans, count, kSegment, [&](uint64_t) { ++segments; });
  const uint64_t ideal = (unique + kSegment - 1) / kSegment;
  MslTraffic& traffic = report_->buffers[instruction.buffer];
  if (writes) {
    traffic.stored += unique;
    ++traffic.store_instructions;
    traffic.store_segments += segments;
    traffic.store_segments_ideal += ideal;
  } else {
    traffic.loaded += unique;
    ++traffic.load_instructions;
    traffic.load_segments += segments;
    traffic.load_segments_ideal += ideal;
  }
}

}  // namespace msl
