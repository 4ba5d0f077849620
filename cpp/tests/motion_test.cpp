#include "flux/motion.hpp"

#include <algorithm>
#include <random>

#include "check.hpp"
#include "motion_judge.hpp"

namespace flux::test {
namespace {

constexpr double kPeriod = 0.02;
constexpr MotionLimits kLimits{.lower = -10.0,
                               .upper = 10.0,
                               .max_velocity = 3.0,
                               .max_acceleration = 15.0,
                               .max_jerk = 150.0};

class Random {
 public:
  double uniform(double lowest, double highest) {
    return std::uniform_real_distribution<double>(lowest, highest)(generator_);
  }
  double log_uniform(double lowest, double highest) {
    return lowest * std::pow(highest / lowest, uniform(0.0, 1.0));
  }
  unsigned below(unsigned bound) { return static_cast<unsigned>(generator_() % bound); }

 private:
  std::mt19937 generator_{11};
};

MotionLimits any_limits(Random& random) {
  MotionLimits limits = kLimits;
  limits.lower = -1e6;
  limits.upper = 1e6;
  limits.max_velocity = random.log_uniform(0.01, 100.0);
  limits.max_acceleration = limits.max_velocity / random.log_uniform(1e-3, 3.0);
  limits.max_jerk = limits.max_acceleration / random.log_uniform(1e-3, 3.0);
  return limits;
}

// A state within the limits; often at one of them, or about to turn back.
MotionState any_state(Random& random, const MotionLimits& limits) {
  while (true) {
    MotionState state{.velocity = random.uniform(-1.0, 1.0) * limits.max_velocity,
                      .acceleration = random.uniform(-1.0, 1.0) * limits.max_acceleration};
    const double gain = state.acceleration * state.acceleration / (2.0 * limits.max_jerk);
    switch (random.below(6)) {
      case 0:
        state.acceleration = limits.max_acceleration;
        break;
      case 1:
        state.acceleration = -limits.max_acceleration;
        break;
      case 2:
        state.velocity = gain * random.uniform(0.5, 1.5);
        break;
      case 3:
        state.velocity *= random.log_uniform(1e-6, 1.0);
        break;
      default:
        break;
    }
    if (is_viable(state, limits)) return state;
  }
}

double rise(const MotionState& state, const MotionLimits& limits) {
  return stopping_rise(state.velocity, state.acceleration, limits);
}

double fall(const MotionState& state, const MotionLimits& limits) {
  return stopping_rise(-state.velocity, -state.acceleration, limits);
}

void the_way_to_stop_agrees_with_an_integration() {
  Random random;
  for (int i = 0; i < 300; ++i) {
    const MotionLimits limits = any_limits(random);
    const MotionState state = any_state(random, limits);
    const JointLimits judged{.velocity = limits.max_velocity,
                             .acceleration = limits.max_acceleration,
                             .jerk = limits.max_jerk};
    const double integrated = integrated_rise(state.velocity, state.acceleration, judged);
    CHECK_NEAR(rise(state, limits), integrated, 5e-3 * integrated + 1e-12);
  }
}

// What makes every admissible state safe, whatever the spacing of the ticks: no braking step moves
// farther than it shortens the way to stop.
void a_braking_step_of_any_length_never_lengthens_the_way_to_stop() {
  Random random;
  for (int i = 0; i < 200'000; ++i) {
    const MotionLimits limits = any_limits(random);
    const MotionState state = any_state(random, limits);
    const double dt = random.log_uniform(1e-5, 1.0);
    const MotionState braked = brake_step(state, dt, limits);
    const double rounding =
        1e-9 * (std::abs(braked.position) + rise(state, limits) + fall(state, limits)) + 1e-18;
    CHECK(braked.position + rise(braked, limits) <= rise(state, limits) + rounding);
    CHECK(-braked.position + fall(braked, limits) <= fall(state, limits) + rounding);
    CHECK(is_viable(braked, limits));
    CHECK(std::abs(braked.acceleration) <= limits.max_acceleration);
    const double change = std::abs(braked.acceleration - state.acceleration);
    CHECK(change <= limits.max_jerk * dt * (1.0 + 1e-9) + 1e-12);
  }
}

void braking_ends_within_its_bound() {
  Random random;
  for (int i = 0; i < 20'000; ++i) {
    const MotionLimits limits = any_limits(random);
    const double period = random.log_uniform(1e-2, 1e-1);
    const double jerk = 1e-9 * limits.max_jerk;
    MotionState state = any_state(random, limits);
    double time = 0.0;
    while (std::abs(state.velocity) > jerk * period * period ||
           std::abs(state.acceleration) > jerk * period) {
      const double dt = random.below(2) == 0 ? period : random.uniform(0.25, 1.0) * period;
      state = brake_step(state, dt, limits);
      time += dt;
      CHECK(time <= rest_time_bound_s(period, limits));
    }
  }
}

// The least time for a move between two standing poses: by bisection over the highest velocity.
double least_time(double way) {
  const auto ramp = [](double velocity) {
    const double full = kLimits.max_acceleration / kLimits.max_jerk;
    return velocity < kLimits.max_acceleration * full ? 2.0 * std::sqrt(velocity / kLimits.max_jerk)
                                                      : velocity / kLimits.max_acceleration + full;
  };
  double lowest = 0.0;
  double highest = kLimits.max_velocity;
  for (int i = 0; i < 60; ++i) {
    const double middle = (lowest + highest) / 2.0;
    (middle * ramp(middle) <= way ? lowest : highest) = middle;
  }
  return ramp(lowest) + way / lowest;
}

void a_standing_target_is_reached_almost_as_fast_as_possible_without_overshoot() {
  for (const double way : {1e-4, 1e-3, 0.01, 0.1, 1.0, 5.0}) {
    MotionState state;
    double time = 0.0;
    while (std::abs(state.position - way) > 1e-7 || std::abs(state.velocity) > 1e-5) {
      state = pursuit_step(state, {.position = way}, 1.0, kPeriod, kLimits);
      time += kPeriod;
      CHECK(state.position <= way + 1e-12);
      CHECK(time <= 1.2 * least_time(way) + 5.0 * kPeriod);
    }
  }
}

void a_standing_joint_stays_exactly_where_it_is() {
  const MotionState standing{.position = 0.3};
  CHECK_EQUAL(brake_step(standing, kPeriod, kLimits).position, 0.3);
  CHECK_EQUAL(stopping_rise(0.0, 0.0, kLimits), 0.0);
  CHECK_EQUAL(rest_displacement(0.0, 0.0, kLimits), 0.0);
}

void a_target_outside_the_limits_is_approached_up_to_them() {
  MotionState state{.position = 9.0};
  for (int i = 0; i < 300; ++i) {
    state = pursuit_step(state, {.position = 1e6}, 1.0, kPeriod, kLimits);
    CHECK(state.position <= kLimits.upper + 1e-11);
  }
  CHECK_NEAR(state.position, kLimits.upper, 1e-6);
}

}  // namespace

std::vector<Case> motion_cases() {
  return {
      {"the way to stop agrees with an integration", the_way_to_stop_agrees_with_an_integration},
      {"a braking step of any length never lengthens the way to stop",
       a_braking_step_of_any_length_never_lengthens_the_way_to_stop},
      {"braking ends within its bound", braking_ends_within_its_bound},
      {"a standing target is reached almost as fast as possible without overshoot",
       a_standing_target_is_reached_almost_as_fast_as_possible_without_overshoot},
      {"a standing joint stays exactly where it is", a_standing_joint_stays_exactly_where_it_is},
      {"a target outside the limits is approached up to them",
       a_target_outside_the_limits_is_approached_up_to_them},
  };
}

}  // namespace flux::test
