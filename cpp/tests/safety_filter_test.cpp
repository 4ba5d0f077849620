#include "flux/safety_filter.hpp"

#include <limits>
#include <random>

#include "check.hpp"

namespace flux::test {
namespace {

constexpr double kControlHz = 50.0;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

SafetyLimits limits_of(std::vector<double> lower, std::vector<double> upper,
                       std::vector<double> max_velocity) {
  return {lower, upper, max_velocity};
}

SafetyFilter one_joint(double lower, double upper, double max_velocity, float start) {
  SafetyFilter filter(limits_of({lower}, {upper}, {max_velocity}), kControlHz);
  filter.reset(std::vector{start});
  return filter;
}

float wild_value(std::mt19937& generator) {
  std::uniform_real_distribution<float> value(-3.0F, 3.0F);
  switch (generator() % 20) {
    case 0:
      return kNaN;
    case 1:
      return -kInfinity;
    case 2:
      return std::numeric_limits<float>::max();
    case 3:
      return std::numeric_limits<float>::denorm_min();
    default:
      return value(generator);
  }
}

void whatever_the_policy_asks_the_command_stays_within_all_limits() {
  std::mt19937 generator(7);
  std::uniform_real_distribution<double> bound(0.1, 2.0);
  for (int trial = 0; trial < 300; ++trial) {
    const std::vector lower{-bound(generator), -bound(generator)};
    const std::vector upper{bound(generator), bound(generator)};
    const std::vector velocity{bound(generator), 20.0 * bound(generator)};
    SafetyFilter filter(limits_of(lower, upper, velocity), kControlHz);
    std::vector<float> last{0.0F, 0.0F};
    filter.reset(last);
    for (int step = 0; step < 200; ++step) {
      const std::vector action{wild_value(generator), wild_value(generator)};
      const std::uint32_t flags = filter.apply(action);
      const bool is_finite = std::isfinite(action[0]) && std::isfinite(action[1]);
      CHECK_EQUAL((flags & kNonFinite) != 0, !is_finite);
      for (std::size_t i = 0; i < 2; ++i) {
        const double now = static_cast<double>(filter.command()[i]);
        CHECK(now >= lower[i] && now <= upper[i]);
        CHECK(std::abs(now - static_cast<double>(last[i])) <= velocity[i] / kControlHz);
        if (flags == 0) CHECK_NEAR(now, static_cast<double>(action[i]), 1.01e-6);
        last[i] = filter.command()[i];
      }
    }
  }
}

void an_action_within_the_limits_passes_unchanged() {
  SafetyFilter filter = one_joint(-1.0, 1.0, 10.0, 0.1F);
  CHECK_EQUAL(filter.apply(std::vector{0.2F}), 0U);
  CHECK_EQUAL(filter.command()[0], 0.2F);
}

void position_and_velocity_violations_have_separate_flags() {
  SafetyFilter filter = one_joint(-1.0, 1.0, 5.0, 0.95F);
  CHECK_EQUAL(filter.apply(std::vector{1.5F}), std::uint32_t{kClippedPosition});
  CHECK_EQUAL(filter.command()[0], 1.0F);
  CHECK_EQUAL(filter.apply(std::vector{0.5F}), std::uint32_t{kClippedVelocity});
  CHECK_NEAR(filter.command()[0], 0.9, 1e-6);
  CHECK_EQUAL(filter.apply(std::vector{-2.0F}),
              std::uint32_t{kClippedVelocity} | std::uint32_t{kClippedPosition});
}

void a_nan_holds_the_last_command() {
  SafetyFilter filter = one_joint(-1.0, 1.0, 5.0, 0.25F);
  CHECK_EQUAL(filter.apply(std::vector{kNaN}), std::uint32_t{kNonFinite} | std::uint32_t{kHeld});
  CHECK_EQUAL(filter.command()[0], 0.25F);
}

void a_rounding_error_is_not_a_violation() {
  SafetyFilter filter = one_joint(-0.1, 0.1, 5.0, 0.1F);
  CHECK_EQUAL(filter.apply(std::vector{0.1F + 5e-7F}), 0U);
  CHECK(static_cast<double>(filter.command()[0]) <= 0.1);
}

void a_hold_outside_the_limits_repeats_the_command() {
  SafetyFilter filter = one_joint(-1.0, 1.0, 5.0, 1.25F);
  for (int i = 0; i < 5; ++i) filter.hold();
  CHECK_EQUAL(filter.command()[0], 1.25F);
  CHECK(filter.is_at_rest() && !filter.is_within_limits());
}

void a_start_outside_the_limits_returns_slowly_when_asked() {
  SafetyFilter filter = one_joint(-1.0, 1.0, 5.0, 1.05F);
  filter.return_to_limits(0.02);
  CHECK_NEAR(filter.command()[0], 1.04, 1e-6);
  CHECK(!filter.is_at_rest());
  for (int i = 0; i < 6; ++i) filter.return_to_limits(0.02);
  CHECK_EQUAL(filter.command()[0], 1.0F);
  CHECK(filter.is_at_rest() && filter.is_within_limits());
}

void invalid_limits_are_refused() {
  using Error = std::invalid_argument;
  CHECK_CONTAINS(message_of<Error>([] { (void)limits_of({1.0}, {1.0}, {1.0}); }), "lower[0]");
  CHECK_CONTAINS(message_of<Error>([] { (void)limits_of({0.0}, {std::nan("")}, {1.0}); }),
                 "upper nan");
  CHECK_CONTAINS(message_of<Error>([] { (void)limits_of({0.0}, {1.0}, {0.0}); }),
                 "max_velocity[0]: expected a finite number above 0");
  CHECK_CONTAINS(message_of<Error>([] { (void)limits_of({0.0}, {1.0, 2.0}, {1.0}); }),
                 "1, 2 and 1");
  CHECK_CONTAINS(message_of<Error>([] { (void)limits_of({}, {}, {}); }), "0, 0 and 0");
  CHECK_CONTAINS(
      message_of<Error>([] { SafetyFilter filter(limits_of({0.0}, {1.0}, {1.0}), 0.0); }),
      "control_hz");
}

}  // namespace

std::vector<Case> safety_filter_cases() {
  return {
      {"whatever the policy asks, the command stays within all limits",
       whatever_the_policy_asks_the_command_stays_within_all_limits},
      {"an action within the limits passes unchanged",
       an_action_within_the_limits_passes_unchanged},
      {"position and velocity violations have separate flags",
       position_and_velocity_violations_have_separate_flags},
      {"a NaN holds the last command", a_nan_holds_the_last_command},
      {"a rounding error is not a violation", a_rounding_error_is_not_a_violation},
      {"a hold outside the limits repeats the command",
       a_hold_outside_the_limits_repeats_the_command},
      {"a start outside the limits returns slowly when asked",
       a_start_outside_the_limits_returns_slowly_when_asked},
      {"invalid limits are refused", invalid_limits_are_refused},
  };
}

}  // namespace flux::test
