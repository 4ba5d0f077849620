#include "flux/fault_watch.hpp"

#include <algorithm>
#include <cstring>

namespace flux {
namespace {

std::size_t place_of(int index) noexcept {
  return static_cast<std::size_t>(std::clamp(index, 0, FaultWatch::kMaxIndices - 1));
}

bool holds(const FaultInfo& info) noexcept {
  return info.reaction == Reaction::kHold || info.reaction == Reaction::kRefuseChunk;
}

}  // namespace

void FaultWatch::begin_tick(std::int64_t time_ns, std::uint64_t session,
                            std::uint64_t tick) noexcept {
  place_.time_ns = time_ns;
  place_.session = session;
  place_.tick = tick;
}

void FaultWatch::set(Fault fault, bool is_present, int index, double value, double limit) noexcept {
  Present& present = present_[at(fault)];
  const std::size_t place = place_of(index);
  if (present.places[place] == is_present) return;
  present.places[place] = is_present;
  present.count += is_present ? 1 : -1;
  has_index_[at(fault)] = index >= 0;
  if (is_present) counts_[at(fault)].add();
  report(fault, is_present ? EventKind::kBegin : EventKind::kEnd, index, value, limit);
}

void FaultWatch::note(Fault fault, int index, double value, double limit) noexcept {
  counts_[at(fault)].add();
  report(fault, EventKind::kNote, index, value, limit);
}

void FaultWatch::end(Fault fault) noexcept {
  Present& present = present_[at(fault)];
  if (present.count == 0) return;
  report(fault, EventKind::kEnd, present.count == 1 ? first_index(fault) : -1, 0.0, 0.0);
  present = {};
}

void FaultWatch::reset() noexcept {
  present_.fill({});
  for (Counter& count : counts_) count.reset();
}

Fault FaultWatch::first_hold() const noexcept {
  for (const FaultInfo& info : kFaults) {
    if (holds(info) && is_present(info.fault)) return info.fault;
  }
  return Fault::kNone;
}

Fault FaultWatch::first_block() const noexcept {
  for (const FaultInfo& info : kFaults) {
    if (holds(info) && !ends_with_a_chunk(info.fault) && is_present(info.fault)) return info.fault;
  }
  return Fault::kNone;
}

int FaultWatch::first_index(Fault fault) const noexcept {
  const Present& present = present_[at(fault)];
  if (present.count == 0 || !has_index_[at(fault)]) return -1;
  int index = 0;
  while (!present.places[place_of(index)]) ++index;
  return index;
}

void FaultWatch::report(Fault fault, EventKind kind, int index, double value,
                        double limit) noexcept {
  std::byte* memory = events_.claim();
  if (memory == nullptr) return;
  Event event = place_;
  event.fault = fault;
  event.kind = kind;
  event.index = static_cast<std::int16_t>(index);
  event.value = value;
  event.limit = limit;
  std::memcpy(memory, &event, sizeof(event));
  events_.publish();
}

}  // namespace flux
