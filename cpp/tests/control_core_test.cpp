// Which row is sent when, how a session begins and ends, and what is recorded.
#include "allocations.hpp"
#include "check.hpp"
#include "core_rig.hpp"

namespace flux::test {
namespace {

RealtimeSettings sync_settings() { return {.mode = Mode::kSync}; }

void the_measured_state_is_held_until_the_first_chunk() {
  CoreRig rig;
  rig.link->state = {0.25F, -0.5F};
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK_EQUAL(rig.command(), 0.25F);
  CHECK_EQUAL(rig.link->last.flags, std::uint32_t{kHeld});
  CHECK_EQUAL(rig.link->last.observed_ns, 0);
  CHECK_EQUAL(rig.link->last.sequence, 1U);
  CHECK(rig.link->phase == LinkPhase::kRunning);
  rig.ticks(20);
  CHECK_EQUAL(rig.command(), 0.25F);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  CHECK_EQUAL(rig.count(Fault::kStarved), 0U);
}

// A chunk that takes six ticks still begins with its first row.
void the_first_chunk_begins_at_row_0_however_long_it_takes() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  const auto request = rig.mailbox->take();
  rig.ticks(6);
  rig.give(*request, 0.0F, 0.0005F);
  rig.tick();
  CHECK_EQUAL(rig.link->last.flags, std::uint32_t{kNewChunk});
  CHECK_EQUAL(rig.command(), 0.0F);
  rig.tick();
  CHECK_EQUAL(rig.command(), 0.0005F);
}

void an_async_chunk_skips_exactly_the_rows_that_were_executed() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK(rig.answer(0.0F));
  rig.ticks(5);  // rows 0 to 4; the horizon is used up
  const auto request = rig.mailbox->take();
  CHECK(request.has_value());
  rig.ticks(3);  // rows 5 to 7
  rig.give(*request, 0.0F, 0.0F, 10);
  rig.tick();
  const auto headers = rig.headers();
  CHECK_EQUAL(headers.back().chunk, 1);
  CHECK_EQUAL(headers.back().row, 3);
  CHECK((headers.back().flags & kNewChunk) != 0);
  // Three ticks of lead were measured: the next request comes after two of five rows.
  CHECK(!rig.mailbox->take().has_value());
  rig.tick();
  CHECK(rig.mailbox->take().has_value());
}

void a_sync_chunk_is_asked_for_when_the_horizon_is_used_up_and_the_robot_rests() {
  CoreRig rig(sync_settings());
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK(rig.answer(0.0F, 0.001F));
  for (int row = 0; row < 5; ++row) {
    rig.tick();
    CHECK_NEAR(rig.command(), 0.001 * row, 1e-3);
    CHECK(!rig.mailbox->take().has_value());
  }
  int braking = 0;
  while (rig.mailbox->status() == ChunkMailbox::Status::kFree) {
    rig.tick();
    CHECK((rig.link->last.flags & kHeld) != 0);
    CHECK(++braking < 50);
  }
  CHECK(rig.core->status().is_at_rest);
  CHECK(rig.answer(rig.command()));
  rig.tick();
  CHECK_EQUAL(rig.headers().back().row, 0);
  CHECK_EQUAL(rig.count(Fault::kStarved), 0U);
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

void an_admissible_chunk_is_sent_bit_for_bit() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK(rig.answer(0.0F, 0.0001F));
  for (int row = 0; row < 10; ++row) {
    rig.tick();
    CHECK_EQUAL(rig.command(), 0.0001F * static_cast<float>(row));
    if (const auto request = rig.mailbox->take()) rig.mailbox->give_up(*request);
  }
  CHECK_EQUAL(rig.count(Fault::kJerk), 0U);
}

void ticks_lie_on_the_grid_and_are_never_caught_up_with() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  rig.tick(400'000);  // within 2.5 % of the period
  CHECK_EQUAL(rig.link->last.tick_ns, rig.deadline_ns);
  rig.tick(2'000'000);
  CHECK_EQUAL(rig.link->last.tick_ns, rig.deadline_ns + 2'000'000);
  const std::uint64_t before = rig.link->num_sent;
  rig.tick(16'000'000);
  rig.tick();  // 4 ms after the last command: not sent
  CHECK_EQUAL(rig.link->num_sent, before + 1);
  rig.tick();
  CHECK_EQUAL(rig.link->num_sent, before + 2);
  CHECK_NEAR(rig.core->jitter().max_s(), 0.016, 1e-3);
}

void finishing_brakes_and_ends_without_a_stop() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK(rig.answer(0.0F, 0.002F));
  rig.ticks(6);
  rig.core->request_finish();
  rig.tick();
  CHECK_PHASE(rig, LoopPhase::kFinishing);
  CHECK((rig.link->last.flags & kStopping) != 0);
  rig.ticks(30);
  CHECK_PHASE(rig, LoopPhase::kIdle);
  CHECK(rig.link->phase == LinkPhase::kIdle);
  const std::uint64_t sent = rig.link->num_sent;
  const std::uint64_t beats = rig.link->num_beats;
  rig.ticks(5);
  CHECK_EQUAL(rig.link->num_sent, sent);
  CHECK_EQUAL(rig.link->num_beats, beats + 5);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
}

void a_stop_is_latched_until_the_next_start() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.run(10);
  rig.core->request_stop(StopCategory::kStopThenPowerOff);
  rig.tick();
  CHECK_EQUAL(rig.link->last.flags & (kHeld | kStopping), kHeld | kStopping);
  rig.run(20);
  CHECK_PHASE(rig, LoopPhase::kStopped);
  CHECK(rig.link->phase == LinkPhase::kStopped);
  CHECK(rig.link->category == StopCategory::kStopThenPowerOff);
  rig.core->request_finish();
  rig.ticks(5);
  CHECK_PHASE(rig, LoopPhase::kStopped);
  rig.link->state = {0.5F, 0.5F};
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK_EQUAL(rig.command(), 0.5F);
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

void a_session_ends_once_the_robot_has_accepted_a_command_at_rest() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.run(10);
  rig.link->is_acknowledging = false;
  rig.core->request_finish();
  rig.tick();
  CHECK_PHASE(rig, LoopPhase::kFinishing);
  rig.link->driver.acknowledged = rig.link->last.sequence;
  rig.tick();
  CHECK_PHASE(rig, LoopPhase::kIdle);
}

void a_robot_that_accepts_nothing_does_not_keep_a_session_from_ending() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.run(10);
  rig.link->is_acknowledging = false;
  rig.core->request_stop(StopCategory::kStopKeepPower);
  rig.ticks(3);
  CHECK_PHASE(rig, LoopPhase::kStopping);
  rig.ticks(3);
  CHECK_PHASE(rig, LoopPhase::kStopped);
}

void a_stop_of_category_0_does_not_brake_first() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.run(10);
  const std::uint64_t sent = rig.link->num_sent;
  rig.core->request_stop(StopCategory::kPowerOff);
  rig.tick();
  CHECK_PHASE(rig, LoopPhase::kStopped);
  CHECK(rig.link->category == StopCategory::kPowerOff);
  CHECK_EQUAL(rig.link->num_sent, sent);
}

void a_start_pose_outside_the_tolerance_is_refused() {
  CoreRig rig;
  rig.link->state = {-54.96F, 0.0F};
  const Cause refusal = rig.start(true);
  CHECK_FAULT(refusal.fault, Fault::kStartPose);
  CHECK_EQUAL(refusal.index, 0);
  CHECK_NEAR(refusal.value, -54.96, 1e-4);
  CHECK_EQUAL(refusal.limit, -1.0);
  rig.ticks(3);
  CHECK_EQUAL(rig.link->num_sent, 0U);
  CHECK_PHASE(rig, LoopPhase::kIdle);
}

void a_start_pose_within_the_tolerance_is_left_slowly_once_confirmed() {
  CoreRig rig;
  rig.link->state = {0.0F, 1.03F};
  const Cause refusal = rig.start();
  CHECK_FAULT(refusal.fault, Fault::kReturnNotConfirmed);
  CHECK_EQUAL(refusal.index, 1);
  CHECK_FAULT(rig.start(true).fault, Fault::kNone);
  CHECK_PHASE(rig, LoopPhase::kReturning);
  float last = 1.03F;
  int steps = 0;
  while (rig.phase() == LoopPhase::kReturning) {
    rig.tick();
    const float now = rig.core->command()[1];
    CHECK(now <= last);
    CHECK_NEAR(last, now, 0.15 / 50.0);
    if (rig.phase() == LoopPhase::kReturning) CHECK(!rig.mailbox->take().has_value());
    CHECK((rig.link->last.flags & kReturning) != 0);
    last = now;
    CHECK(++steps < 200);
  }
  CHECK(last <= 1.0F);
  rig.tick();
  CHECK(rig.answer(0.0F));
  const auto events = rig.events();
  CHECK_FAULT(events.front().fault, Fault::kReturnToLimits);
  CHECK(events.front().kind == EventKind::kBegin);
  CHECK_FAULT(events.back().fault, Fault::kReturnToLimits);
  CHECK(events.back().kind == EventKind::kEnd);
}

void a_return_that_is_held_or_stopped_is_still_marked_as_one() {
  for (const bool is_stop : {true, false}) {
    CoreRig rig;
    rig.link->state = {0.0F, 1.03F};
    CHECK_FAULT(rig.start(true).fault, Fault::kNone);
    rig.ticks(5);
    if (is_stop) {
      rig.core->request_stop(StopCategory::kStopKeepPower);
    } else {
      rig.link->has_heartbeat = false;
    }
    rig.ticks(10);
    CHECK_PHASE(rig, is_stop ? LoopPhase::kStopped : LoopPhase::kHolding);
    CHECK(rig.core->command()[1] > 1.0F);
    for (const TickHeader& header : rig.headers()) CHECK((header.flags & kReturning) != 0);
  }
}

void a_start_without_a_usable_state_or_driver_is_refused() {
  CoreRig rig;
  rig.link->has_state = false;
  CHECK_FAULT(rig.start().fault, Fault::kStateStale);
  rig.link->has_state = true;
  rig.link->state_offset_ns = -200'000'000;
  CHECK_FAULT(rig.start().fault, Fault::kStateStale);
  rig.link->state_offset_ns = 0;
  rig.link->state[1] = std::nanf("");
  CHECK_FAULT(rig.start().fault, Fault::kStateNotFinite);
  rig.link->state[1] = 0.0F;
  rig.link->driver.phase = DriverPhase::kConnecting;
  CHECK_FAULT(rig.start().fault, Fault::kDriverNotReady);
  rig.link->driver.phase = DriverPhase::kReady;
  rig.signal = 2;
  CHECK_FAULT(rig.start().fault, Fault::kSignal);
  rig.signal = 0;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
}

void a_robot_of_differences_rests_at_once() {
  CoreRig rig({.max_following_error = {0.01, 0.01},
               .max_border_jump = {0.01, 0.01},
               .rest_command = {0.0F, 0.5F}},
              7);
  std::ranges::fill(rig.link->state, 9.0F);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK_EQUAL(rig.core->command()[1], 0.5F);
  CHECK(rig.answer(0.4F));
  rig.ticks(10);
  CHECK_NEAR(rig.core->command()[1], 0.4, 0.1);
  rig.core->request_stop(StopCategory::kStopKeepPower);
  rig.tick();
  CHECK_EQUAL(rig.core->command()[0], 0.0F);
  CHECK_EQUAL(rig.core->command()[1], 0.5F);
  CHECK_PHASE(rig, LoopPhase::kStopping);
  rig.tick();  // the robot has accepted the rest command
  CHECK_PHASE(rig, LoopPhase::kStopped);
  CHECK_EQUAL(rig.count(Fault::kLeftLimits) + rig.count(Fault::kFollowingError), 0U);
}

void a_tick_allocates_nothing() {
  CoreRig rig(
      {.max_following_error = {0.5, 0.5}, .max_border_jump = {0.5, 0.5}, .cameras = {0, 1}});
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  std::size_t in_ticks = 0;
  for (int step = 0; step < 400; ++step) {
    rig.answer(rig.command(), 0.001F);
    rig.link->frames[0] = step % 100 > 80 ? 1 : 0;
    rig.link->state[0] += step % 150 == 0 ? 0.6F : 0.0F;
    rig.deadline_ns += kTickNs + (step % 97 == 0 ? 5 * kTickNs : 0);
    rig.link->now_ns = rig.deadline_ns + (step % 7) * 3'000'000;
    const std::size_t before = num_allocations();
    rig.core->tick(rig.deadline_ns, rig.link->now_ns);
    in_ticks += num_allocations() - before;
  }
  CHECK_EQUAL(in_ticks, 0U);
  CHECK(rig.count(Fault::kGap) > 2U);
  CHECK(rig.count(Fault::kFrameStale) > 0U);
}

void records_that_do_not_fit_are_counted() {
  CoreRig rig({.record_s = 0.2});
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.ticks(30);
  CHECK_EQUAL(rig.core->ticks().size(), 11U);
  CHECK_EQUAL(rig.core->ticks().dropped(), 19U);
  CHECK_EQUAL(rig.core->counts().ticks.get(), 30U);
}

void a_record_says_what_was_sent() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  const std::int64_t observed_ns = rig.link->now_ns - 5'000'000;
  CHECK(rig.answer(0.0F, 0.0F, 10, 5'000'000));
  rig.tick();
  const TickHeader last = rig.headers().back();
  CHECK_EQUAL(last.tick_ns, rig.deadline_ns);
  CHECK_EQUAL(last.sent_ns, rig.deadline_ns + 50'000);
  CHECK_EQUAL(last.observed_ns, observed_ns);
  CHECK_EQUAL(rig.link->last.observed_ns, observed_ns);
  CHECK_EQUAL(last.sequence, 2U);
  CHECK_EQUAL(last.acknowledged, 1U);
  CHECK_EQUAL(last.row, 0);
  CHECK_NEAR(rig.core->intervals().max_s(), 0.02, 1e-9);
}

void settings_that_do_not_fit_are_refused() {
  const auto message = [](const RealtimeSettings& settings, std::size_t state_dim = CoreRig::kDim) {
    return message_of<std::invalid_argument>([&] { CoreRig rig(settings, state_dim); });
  };
  CHECK_CONTAINS(message({.hold_for_s = -1.0}), "hold_for_s");
  CHECK_CONTAINS(message({.max_state_age_s = std::nan("")}), "max_state_age_s");
  CHECK_CONTAINS(message({.max_border_jump = {1.0}}), "max_border_jump: expected 2 values, got 1");
  CHECK_CONTAINS(message({.cameras = {2}}), "cameras: expected indices below 2, got 2");
  CHECK_CONTAINS(message({}, 3), "state_dim");
  CHECK_EQUAL(message({}), "");
}

}  // namespace

std::vector<Case> control_core_cases() {
  return {
      {"the measured state is held until the first chunk",
       the_measured_state_is_held_until_the_first_chunk},
      {"the first chunk begins at row 0 however long it takes",
       the_first_chunk_begins_at_row_0_however_long_it_takes},
      {"an async chunk skips exactly the rows that were executed",
       an_async_chunk_skips_exactly_the_rows_that_were_executed},
      {"a sync chunk is asked for when the horizon is used up and the robot rests",
       a_sync_chunk_is_asked_for_when_the_horizon_is_used_up_and_the_robot_rests},
      {"an admissible chunk is sent bit for bit", an_admissible_chunk_is_sent_bit_for_bit},
      {"ticks lie on the grid and are never caught up with",
       ticks_lie_on_the_grid_and_are_never_caught_up_with},
      {"finishing brakes and ends without a stop", finishing_brakes_and_ends_without_a_stop},
      {"a stop is latched until the next start", a_stop_is_latched_until_the_next_start},
      {"a session ends once the robot has accepted a command at rest",
       a_session_ends_once_the_robot_has_accepted_a_command_at_rest},
      {"a robot that accepts nothing does not keep a session from ending",
       a_robot_that_accepts_nothing_does_not_keep_a_session_from_ending},
      {"a stop of category 0 does not brake first", a_stop_of_category_0_does_not_brake_first},
      {"a start pose outside the tolerance is refused",
       a_start_pose_outside_the_tolerance_is_refused},
      {"a start pose within the tolerance is left slowly once confirmed",
       a_start_pose_within_the_tolerance_is_left_slowly_once_confirmed},
      {"a return that is held or stopped is still marked as one",
       a_return_that_is_held_or_stopped_is_still_marked_as_one},
      {"a start without a usable state or driver is refused",
       a_start_without_a_usable_state_or_driver_is_refused},
      {"a robot of differences rests at once", a_robot_of_differences_rests_at_once},
      {"a tick allocates nothing", a_tick_allocates_nothing},
      {"records that do not fit are counted", records_that_do_not_fit_are_counted},
      {"a record says what was sent", a_record_says_what_was_sent},
      {"settings that do not fit are refused", settings_that_do_not_fit_are_refused},
  };
}

}  // namespace flux::test
