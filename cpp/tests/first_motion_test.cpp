// What stands between the rows of a chunk and the robot besides the limits: sessions that begin
// slowly, and thresholds that close grippers.
#include <cmath>
#include <limits>

#include "allocations.hpp"
#include "check.hpp"
#include "core_rig.hpp"
#include "loop_rig.hpp"

namespace flux::test {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

RealtimeSettings slow_settings(Mode mode = Mode::kAsync) {
  return {.slow_start_s = 0.4, .slow_start_speed = 0.25, .execution_horizon = 8, .mode = mode};
}

// Row `at` of a motion that is slow enough to be followed exactly.
float line(double at) { return static_cast<float>(1e-4 * at); }

void serve_line(CoreRig& rig, int rows = 16) {
  const auto request = rig.mailbox->take(rig.link->now_ns);
  if (!request) return;
  std::vector<float> actions;
  for (int row = 0; row < rows; ++row) {
    const auto at = static_cast<double>(request->progress.next_row + row);
    actions.insert(actions.end(), CoreRig::kDim, line(at));
  }
  rig.mailbox->answer(*request, actions, rig.link->now_ns);
}

void a_session_begins_slowly_and_becomes_faster() {
  const RealtimeSettings settings{
      .control_hz = 50.0, .slow_start_s = 0.4, .slow_start_speed = 0.25};
  CHECK_EQUAL(settings.slow_start(0), 0.25);
  CHECK_EQUAL(settings.slow_start(20), 0.25);
  CHECK_NEAR(settings.slow_start(45), 0.625, 1e-12);
  CHECK_EQUAL(settings.slow_start(71), 1.0);
  for (std::uint64_t tick = 1; tick < 80; ++tick) {
    CHECK(settings.slow_start(tick) >= settings.slow_start(tick - 1));
  }
  CHECK_EQUAL((RealtimeSettings{.control_hz = 50.0, .slow_start_speed = 0.25}).slow_start(0), 1.0);
}

// The path is the same; only ticks that execute rows count, so that a wait uses nothing up.
void a_slow_start_keeps_the_path() {
  RealtimeSettings settings = slow_settings();
  settings.control_hz = kCoreHz;
  CoreRig rig(settings);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.ticks(40);  // no chunk comes yet
  double rows = 0.0;
  serve_line(rig);
  for (std::uint64_t tick = 0; tick < 120; ++tick) {
    rig.tick();
    const double share = settings.slow_start(tick);
    CHECK_NEAR(rig.command(), line(rows), 1e-7);
    CHECK_NEAR(rig.headers().back().speed, share, 1e-6);
    rows += share;
    serve_line(rig);
  }
  CHECK_EQUAL(rig.count(Fault::kLateChunk) + rig.count(Fault::kStarved), 0U);
}

// A chunk of 0.3 s lasts 1.3 s, and is not too old for that.
void a_slow_start_makes_no_chunk_old() {
  RealtimeSettings settings = slow_settings();
  settings.slow_start_s = 3.0;
  settings.slow_start_speed = 0.05;
  settings.stale_after_s = 0.2;
  CoreRig rig(settings);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  for (int tick = 0; tick < 140; ++tick) {
    serve_line(rig);
    rig.tick();
  }
  CHECK_PHASE(rig, LoopPhase::kRunning);
  CHECK_EQUAL(rig.count(Fault::kLateChunk), 0U);
  CHECK_NEAR(rig.command(), line(138 * 0.05), 1e-5);
}

void only_a_session_that_asks_for_it_begins_slowly() {
  CoreRig rig(slow_settings());
  rig.core->set_slow_start(false);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  for (int tick = 0; tick < 10; ++tick) {
    serve_line(rig);
    rig.tick();
    CHECK_EQUAL(rig.headers().back().speed, 1.0F);
  }
  CHECK(!rig.core->session_start().is_slow);
}

// While the next chunk is inferred, a slow start becomes faster.
void a_slow_start_tells_rtc_of_enough_rows() {
  RealtimeSettings settings = slow_settings(Mode::kRtc);
  settings.continuation.delays = {0, 1, 2, 3, 4, 5, 6, 7, 8};
  CoreRig rig(settings);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  std::optional<InferenceRequest> open;
  int waited = 0;
  for (int tick = 0; tick < 200; ++tick) {
    rig.tick();
    if (!open) open = rig.mailbox->take(rig.link->now_ns);
    if (!open || ++waited < 6) continue;
    std::vector<float> actions;
    for (int row = 0; row < 16; ++row) {
      actions.insert(actions.end(), CoreRig::kDim,
                     line(static_cast<double>(open->progress.next_row + row)));
    }
    rig.mailbox->answer(*open, actions, rig.link->now_ns);
    open.reset();
    waited = 0;
  }
  CHECK(rig.core->counts().chunks.get() > 5U);
  CHECK_EQUAL(rig.count(Fault::kRtcLate), 0U);
}

// The other joint has no threshold, and the rows of the chunk are not changed.
void a_command_below_the_threshold_closes_the_gripper() {
  CoreRig rig({.grippers = {.closes_below = {kNone, 0.3}, .closed_command = {kNone, -0.5}}});
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK(rig.answer(0.0F, 0.0F));
  for (int tick = 0; tick < 100; ++tick) {
    rig.tick();
    if (const auto request = rig.mailbox->take(rig.link->now_ns)) rig.give(*request, 0.0F);
  }
  CHECK_EQUAL(rig.core->command()[0], 0.0F);
  CHECK_NEAR(rig.core->command()[1], -0.5, 1e-6);
  CHECK_EQUAL(rig.count(Fault::kBorderJump), 0U);
}

void a_command_at_the_threshold_stays() {
  const GripperThresholds thresholds{.closes_below = {0.05, kNone}, .closed_command = {-0.01, 0.0}};
  GripperThreshold grippers(thresholds, 2);
  CHECK_EQUAL(grippers.applied(0, 0.05F), 0.05F);
  CHECK_EQUAL(grippers.applied(0, 0.0499F), -0.01F);
  CHECK_EQUAL(grippers.applied(1, -1.0F), -1.0F);
  CHECK(std::isnan(grippers.applied(0, std::numeric_limits<float>::quiet_NaN())));
  const std::vector<float> action{0.06F, 0.01F};
  const std::vector<float> preview{0.04F, 0.01F, 0.06F, 0.02F};
  const ChunkPlayer::Look look = grippers.applied({.action = action, .preview = preview});
  CHECK_EQUAL(look.action[0], 0.06F);
  CHECK_EQUAL(look.preview[0], -0.01F);
  CHECK_EQUAL(look.preview[1], 0.01F);
  CHECK_EQUAL(look.preview[2], 0.06F);
}

// The rows of two chunks agree, although what the robot gets of them is far apart.
void a_gripper_that_opens_and_closes_is_no_border_jump() {
  CoreRig rig({.max_border_jump = {0.1, 0.1},
               .grippers = {.closes_below = {kNone, 0.3}, .closed_command = {kNone, -0.5}}});
  rig.link->state[1] = 0.31F;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  for (int tick = 0; tick < 200; ++tick) {
    if (const auto request = rig.mailbox->take(rig.link->now_ns)) {
      const float gripper = tick % 100 < 50 ? 0.31F : 0.29F;
      std::vector<float> actions;
      for (int row = 0; row < 10; ++row) actions.insert(actions.end(), {0.0F, gripper});
      rig.mailbox->answer(*request, actions, rig.link->now_ns);
    }
    rig.tick();
    if (tick == 40) CHECK_NEAR(rig.core->command()[1], 0.31, 1e-6);
  }
  CHECK_NEAR(rig.core->command()[1], -0.5, 1e-6);
  CHECK_EQUAL(rig.count(Fault::kBorderJump), 0U);
}

// What is left of a chunk is given to the next inference as the policy predicted it.
void the_next_chunk_continues_what_the_policy_predicted() {
  CoreRig rig({.execution_horizon = 6,
               .mode = Mode::kRtc,
               .continuation = {.delays = {0, 2, 4}},
               .grippers = {.closes_below = {0.3, 0.3}, .closed_command = {-0.5, -0.5}}});
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK(rig.answer(0.01F, 0.0F, 12));
  for (int tick = 0; tick < 12; ++tick) {
    rig.tick();
    const auto request = rig.mailbox->take(rig.link->now_ns);
    if (!request) continue;
    const std::span<const float> known = rig.mailbox->previous();
    CHECK(!known.empty());
    for (const float value : known) CHECK_EQUAL(value, 0.01F);
    return;
  }
  CHECK(false);
}

void simulated_time_has_the_same_threshold() {
  ControlLoopConfig config = sync_config(4);
  config.grippers.closes_below.assign(kActionDim, 5.0);
  config.grippers.closed_command.assign(kActionDim, -7.0);
  LoopRig rig(config);
  CHECK(rig.loop->needs_observation());
  rig.submit(0.0F);
  (void)rig.tick();
  CHECK_EQUAL(rig.loop->asked()[0], -7.0F);
  CHECK_EQUAL(rig.loop->command()[0], -7.0F);
}

void a_session_may_average_its_chunks_whatever_the_mode() {
  CoreRig rig({.execution_horizon = 8, .mode = Mode::kSync});
  rig.core->set_mode(Mode::kEnsemble);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  for (int tick = 0; tick < 60; ++tick) {
    serve_line(rig);
    rig.tick();
  }
  CHECK_NEAR(rig.command(), line(58), 1e-6);
  CHECK(rig.core->counts().chunks.get() > 50U);
}

void settings_that_do_not_fit_are_refused() {
  const auto refusal = [](RealtimeSettings settings) {
    return message_of<std::invalid_argument>([&] { CoreRig rig(settings); });
  };
  CHECK_CONTAINS(refusal({.slow_start_s = -1.0}), "slow_start_s");
  CHECK_CONTAINS(refusal({.slow_start_s = 1.0, .slow_start_speed = 0.0}), "slow_start_speed");
  CHECK_CONTAINS(refusal({.grippers = {.closes_below = {0.1}}}), "closes_below");
  CHECK_CONTAINS(
      refusal({.grippers = {.closes_below = {0.1, kNone}, .closed_command = {kNone, kNone}}}),
      "closed_command[0]");
  CHECK_CONTAINS(refusal({.slow_start_s = 1.0, .slow_start_speed = 0.5, .rest_command = {0, 0}}),
                 "commanded by differences");
  CHECK_CONTAINS(
      refusal({.rest_command = {0, 0},
               .grippers = {.closes_below = {0.1, kNone}, .closed_command = {0.0, 0.0}}}),
      "commanded by differences");
}

void neither_allocates_in_a_tick() {
  RealtimeSettings settings = slow_settings();
  settings.grippers = {.closes_below = {kNone, 0.3}, .closed_command = {kNone, -0.5}};
  CoreRig rig(settings);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  serve_line(rig);
  const std::size_t before = num_allocations();
  rig.ticks(12);
  CHECK_EQUAL(num_allocations(), before);
}

}  // namespace

std::vector<Case> first_motion_cases() {
  return {
      {"a session begins slowly and becomes faster", a_session_begins_slowly_and_becomes_faster},
      {"a slow start keeps the path", a_slow_start_keeps_the_path},
      {"a slow start makes no chunk old", a_slow_start_makes_no_chunk_old},
      {"only a session that asks for it begins slowly",
       only_a_session_that_asks_for_it_begins_slowly},
      {"a slow start tells rtc of enough rows", a_slow_start_tells_rtc_of_enough_rows},
      {"a command below the threshold closes the gripper",
       a_command_below_the_threshold_closes_the_gripper},
      {"a command at the threshold stays", a_command_at_the_threshold_stays},
      {"a gripper that opens and closes is no border jump",
       a_gripper_that_opens_and_closes_is_no_border_jump},
      {"the next chunk continues what the policy predicted",
       the_next_chunk_continues_what_the_policy_predicted},
      {"simulated time has the same threshold", simulated_time_has_the_same_threshold},
      {"a session may average its chunks whatever the mode",
       a_session_may_average_its_chunks_whatever_the_mode},
      {"settings that do not fit are refused", settings_that_do_not_fit_are_refused},
      {"neither allocates in a tick", neither_allocates_in_a_tick},
  };
}

}  // namespace flux::test
