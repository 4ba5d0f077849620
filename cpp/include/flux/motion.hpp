// Motion of one joint within limits of position, velocity, acceleration and jerk, at ticks of
// changing spacing.
//
// A step of `dt` with jerk j is a' = a + j dt, v' = v + a' dt, p' = p + v' dt, so that v', a' and j
// are the finite differences of the positions. Braking with these steps never takes longer ways
// than braking in continuous time, for any sequence of dt; what is safe in continuous time is
// therefore safe whatever the spacing of the coming ticks is.
#pragma once

namespace flux {

// In joint units and joint units per second, second squared and second cubed. All finite,
// lower < upper and the others above 0.
struct MotionLimits {
  double lower = 0.0;
  double upper = 0.0;
  double max_velocity = 0.0;
  double max_acceleration = 0.0;
  double max_jerk = 0.0;
};

struct MotionState {
  double position = 0.0;
  double velocity = 0.0;
  double acceleration = 0.0;
};

// The state after a step of dt_s to `position`.
[[nodiscard]] MotionState step_to(const MotionState& state, double position, double dt_s) noexcept;

// How far the position still rises, at least 0, if the joint brakes at once.
[[nodiscard]] double stopping_rise(double velocity, double acceleration,
                                   const MotionLimits& limits) noexcept;

// Where the joint comes to rest, relative to where it is, on the fastest way to rest.
[[nodiscard]] double rest_displacement(double velocity, double acceleration,
                                       const MotionLimits& limits) noexcept;

// Whether the joint can come to rest within all limits, whatever the spacing of the ticks is.
[[nodiscard]] bool is_viable(const MotionState& state, const MotionLimits& limits) noexcept;

// Whether a step of dt_s from a viable state to `position` is within the limits and viable.
[[nodiscard]] bool can_step_to(const MotionState& state, double position, double dt_s,
                               const MotionLimits& limits) noexcept;

// The step of dt_s that leads to rest soonest. From a viable state it is within the limits and
// viable.
[[nodiscard]] MotionState brake_step(const MotionState& state, double dt_s,
                                     const MotionLimits& limits) noexcept;

// The step of dt_s from a viable state that approaches a moving target. Without other limits than
// those of the position, a standing target is approached as fast as possible and not overshot.
//
// Args:
//   target: where the target is at the end of the step, and how it moves on.
//   jerk_share: share of max_jerk with which the approach is planned. Less than 1 approaches a
//     target that jumps about more gently.
[[nodiscard]] MotionState pursuit_step(const MotionState& state, const MotionState& target,
                                       double jerk_share, double dt_s,
                                       const MotionLimits& limits) noexcept;

// How long braking takes at most from a viable state, if ticks are no more than max_dt_s apart:
// until the velocity and the acceleration are below 1e-9 of what max_jerk changes in max_dt_s.
[[nodiscard]] double rest_time_bound_s(double max_dt_s, const MotionLimits& limits) noexcept;

}  // namespace flux
