// What the control thread sees of a robot: its newest state, the ages of its cameras, a sink for
// commands, and whether the driver is alive. A driver in another process implements it over shared
// memory (flux/shared_memory_link.hpp); a driver in C++ implements it directly.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace flux {

// How the robot is stopped: the stop categories of IEC 60204-1.
enum class StopCategory : std::uint32_t {
  kPowerOff = 0,          // power removed at once
  kStopThenPowerOff = 1,  // controlled stop, then power removed
  kStopKeepPower = 2,     // controlled stop, power kept
};

// What the policy's side is doing, as the driver sees it.
enum class LinkPhase : std::uint32_t {
  kIdle = 0,     // no session: commands are not expected
  kRunning = 1,  // a session runs: three silent periods are a fault
  kStopped = 2,  // the session has ended in a stop; the driver does the robot's own stop
  kClosed = 3,   // no session will follow
};

// What the driver is doing, as the policy's side sees it.
enum class DriverPhase : std::uint32_t {
  kConnecting = 0,
  kReady = 1,    // states and frames arrive; commands of the current session are accepted
  kStopped = 2,  // the driver has stopped the robot, and ignores what is left of the session
  kFailed = 3,   // the driver cannot go on; the reason arrives as a message
  kClosed = 4,
};

struct StateSample {
  std::int64_t captured_ns = 0;  // on the monotonic clock; 0 if there is none yet
  std::uint64_t count = 0;       // states published so far
  // The share of its commanded speed at which the robot moves by its own decision, 0 to 1; at 0 it
  // stands still.
  double speed_scaling = 1.0;
};

// One command, and what is needed to judge it.
struct CommandStamp {
  std::uint64_t sequence = 0;  // from 1, without gaps within a session
  std::uint64_t session = 0;
  // The time for which the limits were applied: the tick's time on the grid if the tick began close
  // to it, else when the tick began.
  std::int64_t tick_ns = 0;
  // The oldest capture time of what the command was made from; 0 if none.
  std::int64_t observed_ns = 0;
  std::uint32_t flags = 0;  // TickFlags
};

struct LinkStatus {
  DriverPhase phase = DriverPhase::kConnecting;
  std::uint64_t acknowledged = 0;   // sequence of the newest command that the robot accepted
  std::uint64_t session = 0;        // the session that the driver accepts commands of
  std::int64_t heartbeat_ns = 0;    // the driver's last sign of life
  std::uint64_t dropped_old = 0;    // commands dropped because they were too old
  std::uint64_t refused_steps = 0;  // commands refused because the step was too large
  std::uint32_t progress = 0;       // bits of the stages that a simulated robot has reached
  bool is_alive = true;             // false once the driver's process has ended
};

// Everything but the constructor and destructor is called by the control thread only, and never
// allocates, locks, throws or waits.
class RobotLink {
 public:
  RobotLink() = default;
  RobotLink(const RobotLink&) = delete;
  RobotLink& operator=(const RobotLink&) = delete;
  virtual ~RobotLink() = default;

  [[nodiscard]] virtual std::size_t action_dim() const noexcept = 0;
  [[nodiscard]] virtual std::size_t state_dim() const noexcept = 0;
  [[nodiscard]] virtual std::size_t num_cameras() const noexcept = 0;
  // The memory that the functions below touch, so that it can be kept from being paged out; empty
  // if there is none worth it.
  [[nodiscard]] virtual std::span<const std::byte> memory() const noexcept { return {}; }

  // Copies the newest state, (state_dim), into `state`. Returns a count of 0 if there is none.
  virtual StateSample read_state(std::span<float> state) noexcept = 0;
  // When the newest frame of a camera was captured; 0 if there is none yet.
  [[nodiscard]] virtual std::int64_t frame_captured_ns(std::size_t camera) const noexcept = 0;
  [[nodiscard]] virtual LinkStatus status() const noexcept = 0;

  // Sends a command, (action_dim), and returns when it left, on the monotonic clock.
  virtual std::int64_t send(std::span<const float> command, const CommandStamp& stamp) noexcept = 0;
  // A sign of life, at every tick, whether or not a command is sent.
  virtual void beat(std::int64_t now_ns) noexcept = 0;
  // Tells the driver what this side is doing; with kStopped, how the robot is to be stopped.
  virtual void announce(LinkPhase phase, StopCategory category, std::uint64_t session) noexcept = 0;
};

}  // namespace flux
