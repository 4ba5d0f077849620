// Actions that are 0 or 1: nothing between is ever sent, and they change in one command.
#include <cmath>
#include <limits>
#include <optional>
#include <random>
#include <stdexcept>

#include "check.hpp"
#include "core_rig.hpp"
#include "flux/gripper_threshold.hpp"
#include "flux/safety_filter.hpp"

namespace flux::test {
namespace {

const std::vector<std::uint8_t> kSecond{0, 1};

SafetyLimits limits_of(bool has_acceleration, double upper = 1.0) {
  const std::vector<double> low{-1.0, 0.0};
  const std::vector<double> high{1.0, upper};
  const std::vector<double> velocity{1.0, 1.0};
  if (!has_acceleration) return {low, high, velocity};
  return {low, high, velocity, std::vector{10.0, 10.0}, std::vector{500.0, 500.0}};
}

void the_filter_sends_a_binary_action_in_one_command() {
  for (const bool has_acceleration : {false, true}) {
    SafetyFilter filter(limits_of(has_acceleration), kCoreHz, kSecond);
    filter.reset(std::vector{0.0F, 0.37F});
    CHECK_EQUAL(filter.command()[1], 0.37F);
    filter.hold();
    CHECK_EQUAL(filter.command()[1], 0.37F);
    for (const float wanted : {1.0F, 0.0F, 1.0F, 1.0F, 0.0F}) {
      const std::vector action{wanted, wanted};
      const std::vector preview{wanted, 1.0F - wanted, wanted, wanted};
      const float before = filter.command()[0];
      CHECK((filter.apply(action, preview, 0.004) & kClippedPosition) == 0);
      CHECK_EQUAL(filter.command()[1], wanted);
      CHECK(std::abs(filter.command()[0] - before) <= 0.0201F);
    }
    filter.hold();
    CHECK_EQUAL(filter.command()[1], 0.0F);
    CHECK((filter.apply(std::vector{0.0F, 7.0F}) & kClippedPosition) != 0);
    CHECK_EQUAL(filter.command()[1], 1.0F);
    const float nan = std::numeric_limits<float>::quiet_NaN();
    CHECK((filter.apply(std::vector{0.0F, nan}) & kNonFinite) != 0);
    CHECK_EQUAL(filter.command()[1], 1.0F);
    filter.restart(std::vector{0.5F, 0.5F});
    CHECK_EQUAL(filter.command()[0], 0.5F);
    CHECK_EQUAL(filter.command()[1], 1.0F);
    CHECK(filter.is_at_rest());
  }
}

void a_binary_action_needs_0_and_1_within_its_limits_and_no_threshold() {
  CHECK_CONTAINS(message_of<std::invalid_argument>(
                     [] { SafetyFilter(limits_of(true, 0.9), kCoreHz, kSecond); }),
                 "limits[1]");
  const double none = std::numeric_limits<double>::quiet_NaN();
  const GripperThresholds thresholds{.closes_below = {none, 0.1}, .closed_command = {none, 0.0}};
  CHECK_CONTAINS(
      message_of<std::invalid_argument>([&] { GripperThreshold(thresholds, 2, kSecond); }),
      "closes_below[1]");
}

CoreRig binary_rig(RealtimeSettings settings) { return CoreRig(settings, 2, kSecond); }

// Rows that move slowly in the first dimension and switch at random in the second.
std::vector<float> switching_rows(std::mt19937& random, float first) {
  std::vector<float> rows;
  for (int row = 0; row < 10; ++row) {
    rows.push_back(first + 0.002F * static_cast<float>(row));
    rows.push_back(random() % 4 == 0 ? 1.0F : 0.0F);
  }
  return rows;
}

// In every mode and at every rate, with late chunks, holds and gaps.
void no_command_lies_between_0_and_1() {
  std::mt19937 random(5);
  for (const Mode mode : {Mode::kSync, Mode::kAsync, Mode::kEnsemble, Mode::kRtc}) {
    for (const double command_hz : {50.0, 130.0, 200.0}) {
      for (const ContinuationMethod method :
           {ContinuationMethod::kPrefix, ContinuationMethod::kGuidance}) {
        RealtimeSettings settings{.command_hz = command_hz,
                                  .mode = mode,
                                  .max_following_error = {0.5, 0.05},
                                  .max_border_jump = {0.5, 0.05}};
        settings.continuation.method = method;
        settings.continuation.delays = {0, 1, 2, 3, 4, 5};
        CoreRig rig = binary_rig(settings);
        rig.link->state = {0.0F, 0.37F};
        CHECK_FAULT(rig.start().fault, Fault::kNone);
        std::optional<InferenceRequest> open;
        int waited = 0;
        int switches = 0;
        float last = 0.37F;
        for (int step = 0; step < 500; ++step) {
          if (!open) open = rig.mailbox->take(rig.link->now_ns);
          if (open && ++waited >= static_cast<int>(random() % 8)) {
            rig.mailbox->answer(*open, switching_rows(random, rig.command()), rig.link->now_ns);
            open.reset();
            waited = 0;
          }
          if (step % 120 == 119) rig.pause(10);
          rig.tick();
          // The gripper follows slowly, which is no fault.
          rig.link->state[1] = 0.37F;
          const float now = rig.core->command()[1];
          CHECK(now == 0.0F || now == 1.0F || (now == last && last == 0.37F));
          const bool is_held = (rig.link->last.flags & kHeld) != 0;
          CHECK(!is_held || now == last);
          switches += now == last ? 0 : 1;
          last = now;
        }
        CHECK(switches > 5);
        CHECK_EQUAL(rig.count(Fault::kBorderJump), 0U);
        CHECK_EQUAL(rig.count(Fault::kFollowingError), 0U);
      }
    }
  }
}

void a_gap_does_not_open_a_closed_gripper() {
  CoreRig rig = binary_rig({});
  rig.link->state = {0.0F, 0.37F};
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK_EQUAL(rig.core->command()[1], 0.37F);
  const auto request = rig.mailbox->take(rig.link->now_ns);
  CHECK(request.has_value());
  const std::vector<float> rows(20, 0.0F);
  rig.mailbox->answer(*request, rows, rig.link->now_ns);
  rig.ticks(3);
  CHECK_EQUAL(rig.core->command()[1], 0.0F);
  rig.pause(100);
  rig.link->state = {0.3F, 0.3F};  // it holds something
  rig.link->driver.heartbeat_ns = rig.deadline_ns;
  rig.tick();
  CHECK((rig.link->last.flags & kGapBefore) != 0);
  CHECK_EQUAL(rig.core->command()[0], 0.3F);
  CHECK_EQUAL(rig.core->command()[1], 0.0F);
}

}  // namespace

std::vector<Case> binary_action_cases() {
  return {
      {"the filter sends a binary action in one command",
       the_filter_sends_a_binary_action_in_one_command},
      {"a binary action needs 0 and 1 within its limits and no threshold",
       a_binary_action_needs_0_and_1_within_its_limits_and_no_threshold},
      {"no command lies between 0 and 1", no_command_lies_between_0_and_1},
      {"a gap does not open a closed gripper", a_gap_does_not_open_a_closed_gripper},
  };
}

}  // namespace flux::test
