// How a robot is controlled in real time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "flux/continuation.hpp"
#include "flux/gripper_threshold.hpp"
#include "flux/mode.hpp"
#include "flux/robot_link.hpp"
#include "flux/scheduling.hpp"

namespace flux {

// Per-joint values have length A, or are empty: then nothing of the kind is watched, and
// start_tolerance is 0.05.
struct RealtimeSettings {
  static constexpr double kSpeedUpS = 1.0;

  // Rows of a chunk per second, at full speed.
  double control_hz = 0.0;
  // Commands per second, at least control_hz: between the rows they lie on a cubic spline. 0 for
  // control_hz.
  double command_hz = 0.0;
  // The share of control_hz at which chunks are executed. The robot's own speed scaling multiplies
  // it.
  double speed = 1.0;
  // A session that begins slowly executes chunks at slow_start_speed, a share of their speed, until
  // rows have been executed for slow_start_s; then the share rises to 1 within kSpeedUpS.
  double slow_start_s = 0.0;
  double slow_start_speed = 1.0;
  // Rows of a chunk that are executed before the next one takes over.
  int execution_horizon = 1;
  // kSync: the next chunk is asked for once the robot is at rest after the last row of the horizon.
  // kAsync: early enough to take over without a pause. kEnsemble: as soon as the last one has come;
  // what the chunks say about a row is averaged. kRtc: so early that the rows which are executed
  // meanwhile, a delay that the policy was trained with, are the beginning of the next chunk.
  Mode mode = Mode::kAsync;
  // With kRtc.
  ContinuationSettings continuation = {};
  // With kRtc: from taking a request to executing its chunk, until that has been measured in the
  // session. 0 if it is not known.
  double first_latency_s = 0.0;
  // For how long the cause of a hold may last; after that it is a stop.
  double hold_for_s = 2.0;
  // For how long a hold may last that the next chunk ends, such as for a policy on another machine
  // that may come back; at least hold_for_s. During it, failures of the inference are not counted
  // against max_retries. 0 for hold_for_s, and for max_retries.
  double chunk_hold_for_s = 0.0;
  // A chunk is used until its observation is older than the chunk's duration plus this time.
  double stale_after_s = 1.0;
  double max_state_age_s = 0.1;
  double max_frame_age_s = 0.5;
  std::vector<double> max_following_error = {};
  // Between the last command and the first row of a chunk.
  std::vector<double> max_border_jump = {};
  // Outside the position limits, at the start and while running.
  std::vector<double> start_tolerance = {};
  // The command that requests no motion, of a robot commanded by differences. Its states are not
  // commands, so that they are not compared with commands or limits. Empty for other robots.
  std::vector<float> rest_command = {};
  // Between a chunk's rows and the safety filter.
  GripperThresholds grippers = {};
  // Of the link; the ages of these are watched.
  std::vector<std::size_t> cameras = {};
  // From a request to its chunk; 0 for hold_for_s, or for 2 s if that is 0 too.
  double inference_deadline_s = 0.0;
  // Failures in a row after which the next one is a stop, unless chunk_hold_for_s bounds them.
  int max_retries = 5;
  // Of a stop that a fault or a signal causes.
  StopCategory stop_category = StopCategory::kStopKeepPower;
  SchedulingRequest scheduling = {};
  // Ticks for which records are kept until they are drained, as time.
  double record_s = 60.0;

  [[nodiscard]] double commands_hz() const noexcept {
    return command_hz > 0.0 ? command_hz : control_hz;
  }
  // Without the robot's own speed scaling.
  [[nodiscard]] double rows_per_s() const noexcept { return control_hz * speed; }
  // Of a session that begins slowly, the share of the speed after so many ticks that have executed
  // rows.
  [[nodiscard]] double slow_start(std::uint64_t executed_ticks) const noexcept;
  // One period of the commands' grid, rounded up to whole nanoseconds, so that a command is never
  // sooner after another than the limits assume.
  [[nodiscard]] std::int64_t period_ns() const noexcept;
  [[nodiscard]] double deadline_s() const noexcept {
    if (inference_deadline_s > 0.0) return inference_deadline_s;
    return hold_for_s > 0.0 ? hold_for_s : 2.0;
  }
  [[nodiscard]] bool waits_for_policy() const noexcept { return chunk_hold_for_s > 0.0; }
  [[nodiscard]] bool is_by_differences() const noexcept { return !rest_command.empty(); }
};

// Returns the settings with their defaults filled in. Throws std::invalid_argument, naming the
// value, unless they are in range and fit the robot.
[[nodiscard]] RealtimeSettings checked(RealtimeSettings settings, const RobotLink& link);

// For how many rows of a chunk memory is reserved: a policy's H, or without one (0) a plenty.
[[nodiscard]] std::size_t max_chunk_rows(const RealtimeSettings& settings,
                                         int action_horizon) noexcept;

// The delay with which a session in mode kRtc begins. Throws std::invalid_argument, with the
// numbers, if first_latency_s is more rows than the policy and the horizons allow.
[[nodiscard]] int first_delay(const RealtimeSettings& settings, int action_horizon);

}  // namespace flux
