#include "flux/motion.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace flux {
namespace {

// What the limits may be exceeded by, relative to them, because of rounding in float64.
constexpr double kRounding = 1e-9;
constexpr double kPositionRounding = 1e-13;
// Halvings of the range of accelerations. What is left of a step is 2^-40 of it.
constexpr int kBisections = 40;
// The share of max_acceleration with which a target that accelerates at that limit is approached.
constexpr double kLeastShare = 0.1;
// How many ticks braking takes longer than in continuous time, at most: one for each of its four
// phases to begin, and the rest until what remains, which is squared at each tick, is negligible.
constexpr double kExtraTicks = 8.0;

double square(double value) noexcept { return value * value; }

// The same motion, seen in the other direction.
MotionState mirrored(const MotionState& state) noexcept {
  return {-state.position, -state.velocity, -state.acceleration};
}

MotionLimits mirrored(const MotionLimits& limits) noexcept {
  MotionLimits other = limits;
  other.lower = -limits.upper;
  other.upper = -limits.lower;
  return other;
}

MotionState accelerated(const MotionState& state, double acceleration, double dt_s) noexcept {
  const double velocity = state.velocity + acceleration * dt_s;
  return {state.position + velocity * dt_s, velocity, acceleration};
}

// How far a joint moves that brakes from a velocity of at least 0 without acceleration: the jerk
// falls and rises again, with constant acceleration between if max_acceleration is reached.
double coasting_rise(double velocity, const MotionLimits& limits) noexcept {
  const double acceleration = limits.max_acceleration;
  const double jerk = limits.max_jerk;
  if (velocity * jerk <= square(acceleration)) return velocity * std::sqrt(velocity / jerk);
  return velocity * (velocity / acceleration + acceleration / jerk) / 2.0;
}

// rest_displacement() of a joint that rises at last, on its way to rest. The acceleration first
// falls from `acceleration` to 0, or has already fallen from 0 to `acceleration`.
double rising_displacement(double velocity, double acceleration,
                           const MotionLimits& limits) noexcept {
  const double jerk = limits.max_jerk;
  const double peak = velocity + square(acceleration) / (2.0 * jerk);
  return (velocity + square(acceleration) / (3.0 * jerk)) * acceleration / jerk +
         coasting_rise(peak, limits);
}

// The largest acceleration a' after a step for which a velocity that is `gap` below its limit stays
// below it, even while the acceleration returns to 0: it solves a' dt + a'^2 / (2 jerk) = gap.
double acceleration_towards(double gap, double dt_s, const MotionLimits& limits) noexcept {
  if (gap <= 0.0) return gap / dt_s;
  return 2.0 * gap / (std::sqrt(square(dt_s) + 2.0 * gap / limits.max_jerk) + dt_s);
}

bool is_viable_upwards(const MotionState& state, const MotionLimits& limits) noexcept {
  const double gain = square(std::max(state.acceleration, 0.0)) / (2.0 * limits.max_jerk);
  if (state.velocity + gain > limits.max_velocity * (1.0 + kRounding)) return false;
  const double rise = stopping_rise(state.velocity, state.acceleration, limits);
  const double slack = kRounding * rise +
                       kPositionRounding * std::max(std::abs(limits.lower), std::abs(limits.upper));
  return state.position + rise <= limits.upper + slack;
}

// Finds where a condition on the acceleration after the step changes from true, as it is for
// `inside`, to false; returns a value close to it for which it is true.
template <typename Condition>
double last_true(double inside, double outside, Condition&& condition) noexcept {
  for (int i = 0; i < kBisections; ++i) {
    const double middle = 0.5 * (inside + outside);
    (condition(middle) ? inside : outside) = middle;
  }
  return inside;
}

// Whether a joint would come to rest relative to a target before it reaches the target. For a
// joint that accelerates with the target, what is left of max_acceleration is less in one direction
// and more in the other.
bool is_short_of(const MotionState& target, const MotionState& state, double jerk_share,
                 const MotionLimits& limits) noexcept {
  const double velocity = state.velocity - target.velocity;
  const double acceleration = state.acceleration - target.acceleration;
  MotionLimits left = limits;
  left.max_jerk *= jerk_share;
  const bool is_rising =
      velocity + acceleration * std::abs(acceleration) / (2.0 * left.max_jerk) >= 0.0;
  left.max_acceleration += is_rising ? target.acceleration : -target.acceleration;
  left.max_acceleration = std::max(left.max_acceleration, kLeastShare * limits.max_acceleration);
  return state.position + rest_displacement(velocity, acceleration, left) <= target.position;
}

}  // namespace

MotionState step_to(const MotionState& state, double position, double dt_s) noexcept {
  const double velocity = (position - state.position) / dt_s;
  return {position, velocity, (velocity - state.velocity) / dt_s};
}

double stopping_rise(double velocity, double acceleration, const MotionLimits& limits) noexcept {
  const double jerk = limits.max_jerk;
  const double gain = square(acceleration) / (2.0 * jerk);
  if (acceleration >= 0.0) {
    if (velocity + gain <= 0.0) return 0.0;
    return std::max(rising_displacement(velocity, acceleration, limits), 0.0);
  }
  if (velocity <= 0.0) return 0.0;
  if (velocity >= gain) return std::max(rising_displacement(velocity, acceleration, limits), 0.0);
  // The joint brakes so hard that it will turn back. It rises less than if it came to rest.
  return velocity * std::sqrt(2.0 * velocity / jerk) / 3.0;
}

double rest_displacement(double velocity, double acceleration,
                         const MotionLimits& limits) noexcept {
  const double final_velocity =
      velocity + acceleration * std::abs(acceleration) / (2.0 * limits.max_jerk);
  if (final_velocity >= 0.0) return rising_displacement(velocity, acceleration, limits);
  return -rising_displacement(-velocity, -acceleration, limits);
}

bool is_viable(const MotionState& state, const MotionLimits& limits) noexcept {
  return is_viable_upwards(state, limits) && is_viable_upwards(mirrored(state), mirrored(limits));
}

bool can_step_to(const MotionState& state, double position, double dt_s,
                 const MotionLimits& limits) noexcept {
  const MotionState next = step_to(state, position, dt_s);
  const double most = 1.0 + kRounding;
  const double jerk = (next.acceleration - state.acceleration) / dt_s;
  return std::abs(jerk) <= limits.max_jerk * most &&
         std::abs(next.acceleration) <= limits.max_acceleration * most && is_viable(next, limits);
}

MotionState brake_step(const MotionState& state, double dt_s, const MotionLimits& limits) noexcept {
  if (state.velocity < 0.0 || (state.velocity == 0.0 && state.acceleration < 0.0)) {
    return mirrored(brake_step(mirrored(state), dt_s, mirrored(limits)));
  }
  const double change = limits.max_jerk * dt_s;
  const double lowest = std::max(state.acceleration - change, -limits.max_acceleration);
  const double highest = std::min(state.acceleration + change, limits.max_acceleration);
  // After the step with this deceleration, the velocity is 0 when the acceleration has returned
  // to 0.
  const double deceleration = acceleration_towards(state.velocity, dt_s, limits);
  return accelerated(state, std::clamp(-deceleration, lowest, highest), dt_s);
}

MotionState pursuit_step(const MotionState& state, const MotionState& target, double jerk_share,
                         double dt_s, const MotionLimits& limits) noexcept {
  const MotionState braked = brake_step(state, dt_s, limits);
  const double change = limits.max_jerk * dt_s;
  const double rising = acceleration_towards(limits.max_velocity - state.velocity, dt_s, limits);
  const double falling = -acceleration_towards(limits.max_velocity + state.velocity, dt_s, limits);
  const double highest =
      std::max(braked.acceleration,
               std::min({state.acceleration + change, limits.max_acceleration, rising}));
  const double lowest =
      std::min(braked.acceleration,
               std::max({state.acceleration - change, -limits.max_acceleration, falling}));
  const auto is_short = [&](double acceleration) {
    return is_short_of(target, accelerated(state, acceleration, dt_s), jerk_share, limits);
  };
  double wanted = lowest;
  if (is_short(highest)) {
    wanted = highest;
  } else if (is_short(lowest)) {
    wanted = last_true(lowest, highest, is_short);
  }
  const auto is_safe = [&](double acceleration) {
    return is_viable(accelerated(state, acceleration, dt_s), limits);
  };
  if (!is_safe(wanted)) wanted = last_true(braked.acceleration, wanted, is_safe);
  return accelerated(state, wanted, dt_s);
}

double rest_time_bound_s(double max_dt_s, const MotionLimits& limits) noexcept {
  const double velocity = limits.max_velocity;
  const double acceleration = limits.max_acceleration;
  const double jerk = limits.max_jerk;
  // In continuous time: the acceleration returns to 0, then the joint brakes from full speed.
  const double release = std::min(acceleration / jerk, 2.0 * std::sqrt(velocity / jerk));
  const double braking = velocity * jerk <= square(acceleration)
                             ? 2.0 * std::sqrt(velocity / jerk)
                             : velocity / acceleration + acceleration / jerk;
  return release + braking + kExtraTicks * max_dt_s;
}

}  // namespace flux
