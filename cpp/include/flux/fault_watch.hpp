// Which faults are present, since when, and how often there have been any.
#pragma once

#include <array>
#include <bitset>
#include <cstdint>

#include "flux/counter.hpp"
#include "flux/faults.hpp"
#include "flux/spsc_ring.hpp"

namespace flux {

enum class EventKind : std::uint8_t { kBegin, kEnd, kNote };

// A fault that began or ended, or something that took no time.
struct Event {
  std::int64_t time_ns = 0;
  std::uint64_t session = 0;
  std::uint64_t tick = 0;
  Fault fault = Fault::kNone;
  EventKind kind = EventKind::kNote;
  std::int16_t index = -1;  // of a joint or camera; -1 if the fault concerns none
  double value = 0.0;
  double limit = 0.0;
};

// A fault is reported when it begins and when it ends, not at every tick. Nothing here allocates,
// locks or throws after construction. One thread writes; counts may be read by others.
class FaultWatch {
 public:
  // Joints and cameras beyond so many share a place.
  static constexpr int kMaxIndices = 1024;

  explicit FaultWatch(SpscRing& events) noexcept : events_(events) {}

  // Sets the time and place of the events that follow.
  void begin_tick(std::int64_t time_ns, std::uint64_t session, std::uint64_t tick) noexcept;

  // Sets whether a fault is present, for one joint or camera or, with -1, as such.
  void set(Fault fault, bool is_present, int index = -1, double value = 0.0,
           double limit = 0.0) noexcept;
  // Counts and reports something that takes no time.
  void note(Fault fault, int index = -1, double value = 0.0, double limit = 0.0) noexcept;
  // Ends a fault for all joints and cameras.
  void end(Fault fault) noexcept;
  // Ends all faults without counting or reporting; clears all counts.
  void reset() noexcept;

  [[nodiscard]] bool is_present(Fault fault) const noexcept {
    return present_[at(fault)].count > 0;
  }
  // The first fault with a reaction of hold or refuse-chunk; kNone if there is none.
  [[nodiscard]] Fault first_hold() const noexcept;
  // The first of these that a chunk cannot end.
  [[nodiscard]] Fault first_block() const noexcept;
  // The first joint or camera with a fault; -1 if the fault concerns none.
  [[nodiscard]] int first_index(Fault fault) const noexcept;
  // How often a fault has begun. Any thread.
  [[nodiscard]] std::uint64_t count(Fault fault) const noexcept { return counts_[at(fault)].get(); }

 private:
  [[nodiscard]] static std::size_t at(Fault fault) noexcept {
    return static_cast<std::size_t>(fault);
  }
  void report(Fault fault, EventKind kind, int index, double value, double limit) noexcept;

  SpscRing& events_;
  Event place_;
  // One place per joint or camera; the first also for a fault that concerns none.
  struct Present {
    std::bitset<kMaxIndices> places;
    int count = 0;
  };
  std::array<Present, kNumFaults> present_{};
  std::array<bool, kNumFaults> has_index_{};
  std::array<Counter, kNumFaults> counts_{};
};

}  // namespace flux
