// What is recorded of every tick: a header of fixed size, then the camera's capture times, the
// state and the command.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "flux/spsc_ring.hpp"

namespace flux {

// What the loop is doing.
enum class LoopPhase : std::uint32_t {
  kIdle,       // no session
  kReturning,  // a slow motion back to the position limits
  kRunning,    // chunks are executed, or the next one is waited for
  kHolding,    // braking or standing because of a fault that may end
  kStopping,   // braking before the robot's own stop
  kFinishing,  // braking at the ordinary end of a session
  kStopped,    // latched: only a new start leaves it
};

[[nodiscard]] constexpr const char* phase_name(LoopPhase phase) noexcept {
  switch (phase) {
    case LoopPhase::kIdle:
      return "idle";
    case LoopPhase::kReturning:
      return "returning";
    case LoopPhase::kRunning:
      return "running";
    case LoopPhase::kHolding:
      return "holding";
    case LoopPhase::kStopping:
      return "stopping";
    case LoopPhase::kFinishing:
      return "finishing";
    case LoopPhase::kStopped:
      return "stopped";
  }
  return "unknown";
}

struct TickHeader {
  std::int64_t tick_ns = 0;      // the time for which the limits were applied
  std::int64_t sent_ns = 0;      // when the command left
  std::int64_t deadline_ns = 0;  // the tick's time on the grid
  std::uint64_t session = 0;
  std::uint64_t sequence = 0;
  std::int64_t observed_ns = 0;        // capture time behind the command; 0 if none
  std::int64_t state_captured_ns = 0;  // capture time of `state`
  std::uint64_t acknowledged = 0;
  std::int64_t chunk = -1;  // of the session, from 0; -1 before the first
  std::int32_t row = -1;    // of the chunk, the last one reached; -1 if no row was executed
  std::uint32_t flags = 0;  // TickFlags
  std::uint32_t phase = 0;  // LoopPhase
  std::uint32_t progress = 0;
  float speed = 1.0F;  // share of control_hz at which rows pass, with the robot's own speed scaling
};

// Where the parts of a record lie, in bytes.
struct TickLayout {
  TickLayout(std::size_t num_cameras, std::size_t state_dim, std::size_t action_dim) noexcept
      : num_cameras(num_cameras),
        state_dim(state_dim),
        action_dim(action_dim),
        state(sizeof(TickHeader) + num_cameras * sizeof(std::int64_t)),
        command(state + state_dim * sizeof(float)),
        bytes((command + action_dim * sizeof(float) + 7) / 8 * 8) {}

  std::size_t num_cameras;
  std::size_t state_dim;
  std::size_t action_dim;
  std::size_t frames = sizeof(TickHeader);
  std::size_t state;
  std::size_t command;
  std::size_t bytes;
};

}  // namespace flux
