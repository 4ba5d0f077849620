// Everything that can go wrong while a robot is controlled in real time, and what the loop then
// does: one table, which the documentation is tested against.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace flux {

enum class Fault : std::uint8_t {
  kNone,
  // What is asked for is outside a limit.
  kPosition,
  kVelocity,
  kAcceleration,
  kJerk,
  // The chunk cannot be used.
  kNonFiniteChunk,
  kBorderJump,
  kLateChunk,
  kRtcLate,
  // No chunk comes.
  kInferenceFailed,
  kRetriesExhausted,
  kInferenceDeadline,
  kStarved,
  kPolicyTooSlow,
  // What is known of the robot.
  kStateStale,
  kStateNotFinite,
  kStateTime,
  kFrameStale,
  kFrameTime,
  kFollowingError,
  kLeftLimits,
  // The driver.
  kDriverSilent,
  kUnacknowledged,
  kCommandDropped,
  kStepRefused,
  kDriverStopped,
  kDriverFailed,
  kDriverDead,
  kSessionLost,
  // The control thread itself.
  kGap,
  kMissedTick,
  kHeldTooLong,
  kStopOverdue,
  // The operator.
  kOperatorStop,
  kSignal,
  // The start.
  kStartPose,
  kReturnNotConfirmed,
  kReturnToLimits,
  kDriverNotReady,
};

enum class Reaction : std::uint8_t {
  kNote,         // recorded, nothing else
  kClamp,        // the command is moved inside the limit
  kRefuseChunk,  // the chunk is not used; hold until one can be
  kHold,         // brake to rest; ends by itself when its cause ends in time, else a stop
  kStop,         // brake to rest, then the robot's own stop; only a new start leaves it
  kRefuseStart,  // no command is sent
};

struct FaultInfo {
  Fault fault;
  const char* name;
  Reaction reaction;
  const char* text;
  const char* unit;  // of an event's value and limit; "" if it has none
};

// In the order of the enumeration.
inline constexpr std::array kFaults = std::to_array<FaultInfo>({
    {Fault::kNone, "none", Reaction::kNote, "no fault", ""},
    {Fault::kPosition, "position", Reaction::kClamp,
     "an action outside the position limits, or one from which the robot could not stop inside "
     "them",
     "joint unit"},
    {Fault::kVelocity, "velocity", Reaction::kClamp, "an action that needs more than max_velocity",
     "joint unit"},
    {Fault::kAcceleration, "acceleration", Reaction::kClamp,
     "an action that needs more than max_acceleration", "joint unit"},
    {Fault::kJerk, "jerk", Reaction::kClamp, "an action that needs more than max_jerk",
     "joint unit"},
    {Fault::kNonFiniteChunk, "non_finite_chunk", Reaction::kRefuseChunk,
     "a chunk that contains a NaN or an infinity", ""},
    {Fault::kBorderJump, "border_jump", Reaction::kRefuseChunk,
     "a chunk that begins too far from the last command", "joint unit"},
    {Fault::kLateChunk, "late_chunk", Reaction::kRefuseChunk,
     "a chunk whose observation is older than its bound, or whose rows are all in the past", "s"},
    {Fault::kRtcLate, "rtc_late", Reaction::kNote,
     "a chunk that arrived after the rows that it had been told would be executed meanwhile; the "
     "running chunk fades into it",
     "rows"},
    {Fault::kInferenceFailed, "inference_failed", Reaction::kHold,
     "an observation, its encoding or the inference raised an error; it is tried again",
     "failures"},
    {Fault::kRetriesExhausted, "retries_exhausted", Reaction::kStop,
     "the inference failed more often in a row than it is tried again", "failures"},
    {Fault::kInferenceDeadline, "inference_deadline", Reaction::kStop,
     "no chunk arrived within the inference's deadline", "s"},
    {Fault::kStarved, "starved", Reaction::kHold,
     "the running chunk is used up and the next one is not ready", "rows"},
    {Fault::kPolicyTooSlow, "policy_too_slow", Reaction::kStop,
     "three chunks in a row took longer than they last", "s"},
    {Fault::kStateStale, "state_stale", Reaction::kHold,
     "the newest state is too old, or there is none", "s"},
    {Fault::kStateNotFinite, "state_not_finite", Reaction::kHold,
     "the newest state contains a NaN or an infinity", ""},
    {Fault::kStateTime, "state_time", Reaction::kHold,
     "the newest state's capture time is in the future or before the last one's", "s"},
    {Fault::kFrameStale, "frame_stale", Reaction::kHold,
     "a camera's newest frame is too old, or there is none", "s"},
    {Fault::kFrameTime, "frame_time", Reaction::kHold,
     "a frame's capture time is in the future or before the last one's", "s"},
    {Fault::kFollowingError, "following_error", Reaction::kHold,
     "a joint is too far from its command for more than three ticks", "joint unit"},
    {Fault::kLeftLimits, "left_limits", Reaction::kStop,
     "a joint is measured outside its position limits and the tolerance", "joint unit"},
    {Fault::kDriverSilent, "driver_silent", Reaction::kHold,
     "no sign of life from the driver for three periods", "s"},
    {Fault::kUnacknowledged, "unacknowledged", Reaction::kHold,
     "more than three commands that the robot has not accepted", "commands"},
    {Fault::kCommandDropped, "command_dropped", Reaction::kNote,
     "the driver dropped a command that was too old", "commands"},
    {Fault::kStepRefused, "step_refused", Reaction::kHold,
     "the driver refused a step of more than three nominal ones; the loop starts again from the "
     "measured state",
     "commands"},
    {Fault::kDriverStopped, "driver_stopped", Reaction::kStop,
     "the driver has stopped the robot by itself", ""},
    {Fault::kDriverFailed, "driver_failed", Reaction::kStop, "the driver cannot go on", ""},
    {Fault::kDriverDead, "driver_dead", Reaction::kStop, "the driver's process has ended", ""},
    {Fault::kSessionLost, "session_lost", Reaction::kStop,
     "the driver no longer accepts this session's commands", "session"},
    {Fault::kGap, "gap", Reaction::kHold,
     "more than three periods between two ticks; the loop starts again from the measured state",
     "s"},
    {Fault::kMissedTick, "missed_tick", Reaction::kNote,
     "a tick began more than a period late; the ticks it missed are skipped", "s"},
    {Fault::kHeldTooLong, "held_too_long", Reaction::kStop,
     "the cause of a hold did not end in time", "s"},
    {Fault::kStopOverdue, "stop_overdue", Reaction::kNote,
     "braking took longer than the limits allow; the robot's own stop was asked for at once", "s"},
    {Fault::kOperatorStop, "operator_stop", Reaction::kStop, "the operator asked for a stop", ""},
    {Fault::kSignal, "signal", Reaction::kStop, "SIGINT, SIGTERM or SIGHUP arrived", "signal"},
    {Fault::kStartPose, "start_pose", Reaction::kRefuseStart,
     "a joint starts outside its position limits and the tolerance", "joint unit"},
    {Fault::kReturnNotConfirmed, "return_not_confirmed", Reaction::kRefuseStart,
     "a joint starts outside its position limits within the tolerance, and nobody has confirmed "
     "the slow motion back",
     "joint unit"},
    {Fault::kReturnToLimits, "return_to_limits", Reaction::kNote,
     "a slow motion back to the position limits, which the operator has confirmed", "joint unit"},
    {Fault::kDriverNotReady, "driver_not_ready", Reaction::kRefuseStart,
     "the driver is not ready to accept commands", ""},
});

inline constexpr std::size_t kNumFaults = kFaults.size();

[[nodiscard]] constexpr const FaultInfo& info_of(Fault fault) noexcept {
  return kFaults[static_cast<std::size_t>(fault)];
}

// Whether a hold ends only with the next usable chunk, so that one is asked for while it lasts.
[[nodiscard]] constexpr bool ends_with_a_chunk(Fault fault) noexcept {
  return info_of(fault).reaction == Reaction::kRefuseChunk || fault == Fault::kInferenceFailed ||
         fault == Fault::kStarved;
}

// A fault with its figures.
struct Cause {
  Fault fault = Fault::kNone;
  int index = -1;  // of a joint or camera
  double value = 0.0;
  double limit = 0.0;
};

// Leaves out figures that are NaN.
// "following_error: a joint is too far ... (joint 3: 0.42, limit 0.1 joint unit)"
[[nodiscard]] std::string describe(const Cause& cause);

static_assert([] {
  for (std::size_t i = 0; i < kNumFaults; ++i) {
    if (static_cast<std::size_t>(kFaults[i].fault) != i) return false;
  }
  return kNumFaults == static_cast<std::size_t>(Fault::kDriverNotReady) + 1;
}());

}  // namespace flux
