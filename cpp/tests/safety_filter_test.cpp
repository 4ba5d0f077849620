#include "flux/safety_filter.hpp"

#include <algorithm>
#include <limits>
#include <random>

#include "allocations.hpp"
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

// Of one joint with limits of acceleration and jerk; position limits -1 to 1, max_velocity 3.
SafetyFilter smooth_joint(float start) {
  SafetyFilter filter(SafetyLimits(std::vector{-1.0}, std::vector{1.0}, std::vector{3.0},
                                   std::vector{15.0}, std::vector{150.0}),
                      kControlHz);
  filter.reset(std::vector{start});
  return filter;
}

// Applies rows with their preview; returns the flags of all ticks together.
std::uint32_t apply_all(SafetyFilter& filter, const std::vector<float>& rows) {
  std::uint32_t flags = 0;
  for (std::size_t k = 0; k < rows.size(); ++k) {
    const auto left = std::span(rows).subspan(k);
    flags |= filter.apply(left.first(1), left.subspan(1), 1.0 / kControlHz);
  }
  return flags;
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

void a_short_tick_allows_a_short_step() {
  SafetyFilter filter = one_joint(-1.0, 1.0, 5.0, 0.0F);
  CHECK_EQUAL(filter.apply(std::vector{0.5F}, {}, 0.005), std::uint32_t{kClippedVelocity});
  CHECK_NEAR(filter.command()[0], 0.025, 1e-7);
  // A late tick allows no more than a nominal period does.
  CHECK_EQUAL(filter.apply(std::vector{0.5F}, {}, 0.5), std::uint32_t{kClippedVelocity});
  CHECK_NEAR(filter.command()[0], 0.125, 1e-7);
}

void acceleration_and_jerk_violations_have_flags() {
  SafetyFilter filter = smooth_joint(0.0F);
  CHECK_EQUAL(filter.apply(std::vector{0.002F}), std::uint32_t{kClippedJerk});
  filter.reset(std::vector{0.0F});
  CHECK_EQUAL(filter.apply(std::vector{0.01F}),
              std::uint32_t{kClippedJerk} | std::uint32_t{kClippedAcceleration});
  filter.reset(std::vector{0.0F});
  CHECK((filter.apply(std::vector{1.5F}) & kClippedPosition) != 0);
}

void a_row_from_which_the_robot_could_not_stop_is_refused() {
  SafetyFilter filter = smooth_joint(-0.9F);
  std::uint32_t flags = 0;
  double command = -0.9;
  for (int i = 0; i < 200 && flags == 0; ++i) {
    command += 0.0008 * std::min(i, 70);
    flags = filter.apply(std::vector{static_cast<float>(std::min(command, 1.0))});
  }
  CHECK_EQUAL(flags, std::uint32_t{kClippedPosition});
  CHECK(filter.command()[0] < 0.9F);
}

void a_hold_brakes_within_its_bound_and_then_repeats_the_command() {
  SafetyFilter filter = smooth_joint(-0.9F);
  (void)apply_all(filter, std::vector<float>(15, 0.9F));
  CHECK(!filter.is_at_rest());
  int ticks = 0;
  while (!filter.is_at_rest()) {
    filter.hold();
    ++ticks;
  }
  CHECK(ticks > 5 && ticks / kControlHz <= filter.rest_time_bound_s());
  const float rest = filter.command()[0];
  for (int i = 0; i < 10; ++i) filter.hold();
  CHECK_EQUAL(filter.command()[0], rest);
}

void a_nan_brakes() {
  SafetyFilter filter = smooth_joint(-0.9F);
  (void)apply_all(filter, std::vector<float>(15, 0.9F));
  const float last = filter.command()[0];
  CHECK_EQUAL(filter.apply(std::vector{kNaN}), std::uint32_t{kNonFinite} | std::uint32_t{kHeld});
  CHECK(filter.command()[0] > last);
}

void a_row_far_outside_the_limits_ends_at_the_limit() {
  SafetyFilter filter = smooth_joint(0.0F);
  (void)apply_all(filter, std::vector<float>(100, 1e6F));
  CHECK_EQUAL(filter.command()[0], 1.0F);
  CHECK(filter.is_at_rest());
}

void rows_that_alternate_are_not_chased() {
  SafetyFilter filter = smooth_joint(0.0F);
  std::vector<float> rows;
  for (int k = 0; k < 500; ++k) rows.push_back(k % 2 == 0 ? 0.5F : -0.5F);
  for (std::size_t k = 0; k < rows.size() - 2; ++k) {
    const auto left = std::span(rows).subspan(k);
    (void)filter.apply(left.first(1), left.subspan(1), 1.0 / kControlHz);
    CHECK_NEAR(filter.command()[0], 0.0, 1e-6);
  }
}

void noise_is_not_amplified() {
  std::mt19937 generator(5);
  std::normal_distribution<double> noise(0.0, 1e-3);
  SafetyFilter filter = smooth_joint(0.0F);
  std::vector<float> rows;
  for (int k = 0; k < 4000; ++k) rows.push_back(static_cast<float>(noise(generator)));
  double sum = 0.0;
  for (std::size_t k = 0; k < rows.size(); ++k) {
    const auto left = std::span(rows).subspan(k);
    (void)filter.apply(left.first(1), left.subspan(1), 1.0 / kControlHz);
    sum += std::pow(static_cast<double>(filter.command()[0]), 2.0);
  }
  CHECK(std::sqrt(sum / 4000.0) < 1e-3);
}

void a_return_to_the_limits_is_slow_and_never_leads_farther_out() {
  SafetyFilter filter = smooth_joint(-1.05F);
  filter.hold();
  CHECK_EQUAL(filter.command()[0], -1.05F);
  double last = -1.05;
  int ticks = 0;
  while (!filter.is_within_limits() || !filter.is_at_rest()) {
    filter.return_to_limits(1.0 / kControlHz);
    const auto now = static_cast<double>(filter.command()[0]);
    CHECK(now >= last - 1e-7);
    CHECK(now - last <= 3.0 * SafetyFilter::kReturnSpeed / kControlHz + 1e-7);
    last = now;
    ++ticks;
  }
  CHECK(ticks < 30);
  CHECK_EQUAL(filter.command()[0], -1.0F);
  // From now on the position limits are those of the robot.
  (void)apply_all(filter, std::vector<float>(100, -1.05F));
  CHECK_EQUAL(filter.command()[0], -1.0F);
}

void nothing_allocates_after_construction() {
  SafetyFilter filter = smooth_joint(-0.9F);
  const std::vector<float> rows{0.9F, kNaN, 0.2F, 0.21F};
  const std::size_t before = num_allocations();
  filter.reset(std::span(rows).first(1));
  for (std::size_t k = 0; k < rows.size(); ++k) {
    const auto left = std::span(rows).subspan(k);
    (void)filter.apply(left.first(1), left.subspan(1), 0.01);
    filter.brake(0.02);
    filter.return_to_limits(0.02);
  }
  CHECK_EQUAL(num_allocations(), before);
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
  const std::vector low{0.0};
  const std::vector high{1.0};
  CHECK_CONTAINS(message_of<Error>([&] { SafetyLimits(low, high, high, high); }),
                 "max_acceleration and max_jerk both empty or both of length 1, got 1 and 0");
  CHECK_CONTAINS(message_of<Error>([&] { SafetyLimits(low, high, high, high, low); }),
                 "max_jerk[0]: expected a finite number above 0");
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
      {"a short tick allows a short step", a_short_tick_allows_a_short_step},
      {"acceleration and jerk violations have flags", acceleration_and_jerk_violations_have_flags},
      {"a row from which the robot could not stop is refused",
       a_row_from_which_the_robot_could_not_stop_is_refused},
      {"a hold brakes within its bound and then repeats the command",
       a_hold_brakes_within_its_bound_and_then_repeats_the_command},
      {"a NaN brakes", a_nan_brakes},
      {"a row far outside the limits ends at the limit",
       a_row_far_outside_the_limits_ends_at_the_limit},
      {"rows that alternate are not chased", rows_that_alternate_are_not_chased},
      {"noise is not amplified", noise_is_not_amplified},
      {"a return to the limits is slow and never leads farther out",
       a_return_to_the_limits_is_slow_and_never_leads_farther_out},
      {"nothing allocates after construction", nothing_allocates_after_construction},
      {"invalid limits are refused", invalid_limits_are_refused},
  };
}

}  // namespace flux::test
