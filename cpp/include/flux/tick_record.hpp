// What is recorded of every tick: what it decided, what it took from outside, and then the cameras'
// capture times, the state and the command. A session can be replayed from it
// (flux/session_replay.hpp).
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
  std::int64_t sent_ns = 0;      // when the command left; 0 if none was sent
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
  std::uint32_t unused = 0;  // no padding, so that records can be compared byte by byte
};

// What a tick took from outside, with `deadline_ns`, `state_captured_ns`, `acknowledged`,
// `progress` and `sent_ns` of its header, and the state and capture times in its record. Apart from
// chunks, nothing else decides what the tick does.
struct TickInputs {
  std::int64_t now_ns = 0;        // when the tick began
  std::uint64_t state_count = 0;  // StateSample, as the following one
  double speed_scaling = 1.0;
  std::int64_t heartbeat_ns = 0;  // LinkStatus, as the following ones
  std::uint64_t driver_session = 0;
  std::uint64_t dropped_old = 0;
  std::uint64_t refused_steps = 0;
  std::uint64_t ticket = 0;       // of the mailbox's last request
  std::uint64_t epoch = 0;        // of the mailbox, when the tick looked for an answer
  std::int32_t signal = 0;        // number of the first stop signal; 0 if none
  std::uint8_t driver_phase = 0;  // DriverPhase
  std::uint8_t is_driver_alive = 0;
  std::int8_t stop_request = -1;  // StopCategory; -1 if none
  std::uint8_t is_finish_requested = 0;
  std::uint8_t mailbox = 0;        // ChunkMailbox::Status at that time
  std::uint8_t has_discarded = 0;  // whether it then gave up a request,
  std::uint8_t has_withdrawn = 0;  // and whether nobody had taken that request
  std::uint8_t unused[5] = {};
};

// Where the parts of a record lie, in bytes.
struct TickLayout {
  TickLayout(std::size_t num_cameras, std::size_t state_dim, std::size_t action_dim) noexcept
      : num_cameras(num_cameras),
        state_dim(state_dim),
        action_dim(action_dim),
        state(frames + num_cameras * sizeof(std::int64_t)),
        command(state + state_dim * sizeof(float)),
        bytes((command + action_dim * sizeof(float) + 7) / 8 * 8) {}

  std::size_t num_cameras;
  std::size_t state_dim;
  std::size_t action_dim;
  std::size_t inputs = sizeof(TickHeader);
  std::size_t frames = sizeof(TickHeader) + sizeof(TickInputs);
  std::size_t state;
  std::size_t command;
  std::size_t bytes;
};

}  // namespace flux
