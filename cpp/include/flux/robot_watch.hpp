// Reads a robot's link at every tick and finds the faults of the robot, its sensors and its driver.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "flux/fault_watch.hpp"
#include "flux/faults.hpp"
#include "flux/realtime_settings.hpp"
#include "flux/robot_link.hpp"
#include "flux/safety_filter.hpp"

namespace flux {

// Used by the control thread only. Nothing here allocates, locks or throws after construction.
class RobotWatch {
 public:
  // Keeps references to all arguments. The settings are checked ones. `binary_mask`, (A) or empty,
  // is 1 where an action is binary: such a command is followed in the robot's own time.
  RobotWatch(const RealtimeSettings& settings, const SafetyLimits& limits, RobotLink& link,
             FaultWatch& faults, std::span<const std::uint8_t> binary_mask = {});

  // Reads the newest state, the frames' capture times and the driver's status.
  void read(std::int64_t now_ns) noexcept;

  [[nodiscard]] std::span<const float> state() const noexcept { return state_; }
  [[nodiscard]] const StateSample& sample() const noexcept { return sample_; }
  [[nodiscard]] const LinkStatus& status() const noexcept { return status_; }
  // When the newest frame of each of the link's cameras was captured; 0 if there is none.
  [[nodiscard]] std::span<const std::int64_t> frames() const noexcept { return frames_; }
  // Whether the newest state can be started from: there is one, it is finite and not too old.
  [[nodiscard]] bool has_state() const noexcept { return is_finite_ && !is_stale_; }
  // Whether anybody is left to send commands to.
  [[nodiscard]] bool has_driver() const noexcept;

  // Why no session can start; kNone if one can.
  [[nodiscard]] Cause check_start(bool is_return_confirmed) const noexcept;
  void begin_session(std::uint64_t session) noexcept;

  // Sets the faults that hold. `command` and `sequence` are those of the last command; the sequence
  // is 0 before the first.
  void watch(std::span<const float> command, std::uint64_t sequence) noexcept;
  // Whether the driver has refused a step since the last call.
  [[nodiscard]] bool takes_refused_step() noexcept;
  // The fault that ends the session; kNone if there is none.
  [[nodiscard]] Cause stop_cause() const noexcept;

 private:
  void watch_state() noexcept;
  void watch_frames() noexcept;
  void watch_driver(std::uint64_t sequence) noexcept;
  void watch_following(std::span<const float> command) noexcept;
  [[nodiscard]] Cause outside(double share_of_tolerance) const noexcept;

  const RealtimeSettings& settings_;
  const SafetyLimits& limits_;
  RobotLink& link_;
  FaultWatch& faults_;
  std::span<const std::uint8_t> binary_mask_;
  std::int64_t period_ns_;

  std::int64_t now_ns_ = 0;
  std::vector<float> state_;
  StateSample sample_;
  LinkStatus status_;
  std::vector<std::int64_t> frames_;
  bool is_finite_ = false;
  bool is_stale_ = true;
  std::int64_t last_state_ns_ = 0;
  std::vector<std::int64_t> last_frame_ns_;  // per watched camera
  std::vector<int> ticks_behind_;            // per joint
  // Until when a robot that has stopped by itself may be behind; 0 if it has not.
  std::int64_t may_be_behind_until_ns_ = 0;
  std::uint64_t session_ = 0;
  bool is_session_seen_ = false;
  std::uint64_t dropped_old_ = 0;
  std::uint64_t refused_steps_ = 0;
};

}  // namespace flux
