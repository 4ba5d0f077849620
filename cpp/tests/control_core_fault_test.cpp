// Each fault, and what the control thread does about it, in simulated time.
#include <atomic>
#include <limits>
#include <thread>

#include "check.hpp"
#include "core_rig.hpp"

namespace flux::test {
namespace {

// A session that has executed a few rows.
struct Running : CoreRig {
  explicit Running(RealtimeSettings settings = {}, std::size_t state_dim = kDim)
      : CoreRig(std::move(settings), state_dim) {
    CHECK_FAULT(start().fault, Fault::kNone);
    run(6);
    CHECK_PHASE(*this, LoopPhase::kRunning);
    (void)events();
  }

  // Ticks until the loop has stopped; returns how many.
  int ticks_to_stop(int most = 400) {
    int count = 0;
    while (phase() != LoopPhase::kStopped) {
      run(1);
      CHECK(++count <= most);
    }
    return count;
  }

  // The events of one fault since the session has begun to run.
  std::vector<Event> events_of(Fault fault) {
    std::vector<Event> found;
    for (const Event& event : events()) {
      if (event.fault == fault) found.push_back(event);
    }
    return found;
  }
};

using Change = void (*)(FakeLink& link);

// A cause that lasts a while holds, and reports once when it begins and when it ends.
void check_hold(Fault fault, const RealtimeSettings& settings, Change begin, Change end,
                int patience = 1) {
  Running rig(settings);
  begin(*rig.link);
  rig.run(patience);
  rig.run(20);
  CHECK_PHASE(rig, LoopPhase::kHolding);
  CHECK_EQUAL(rig.link->last.flags & (kHeld | kHolding), kHeld | kHolding);
  CHECK_EQUAL(rig.link->last.observed_ns, 0);
  const float held = rig.command();
  rig.run(20);
  CHECK_EQUAL(rig.command(), held);
  end(*rig.link);
  rig.run(8);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  CHECK_EQUAL(rig.link->last.flags & kHeld, 0U);
  const std::vector<Event> events = rig.events_of(fault);
  CHECK_EQUAL(events.size(), 2U);
  CHECK(events[0].kind == EventKind::kBegin);
  CHECK(events[1].kind == EventKind::kEnd);
  CHECK_EQUAL(rig.count(fault), 1U);
}

// One that does not end becomes a stop after hold_for_s.
void check_held_too_long(Fault fault, const RealtimeSettings& settings, Change begin) {
  Running rig(settings);
  begin(*rig.link);
  const int ticks = rig.ticks_to_stop();
  CHECK(ticks >= 98 && ticks <= 130);
  CHECK_FAULT(rig.stopped_by(), Fault::kHeldTooLong);
  CHECK_FAULT(rig.core->status().held_by.fault, fault);
  CHECK(rig.link->phase == LinkPhase::kStopped);
}

void check_both(Fault fault, const RealtimeSettings& settings, Change begin, Change end,
                int patience = 1) {
  check_hold(fault, settings, begin, end, patience);
  check_held_too_long(fault, settings, begin);
}

void an_old_state_holds() {
  check_both(
      Fault::kStateStale, {}, [](FakeLink& link) { link.has_new_states = false; },
      [](FakeLink& link) { link.has_new_states = true; }, 6);
}

void a_state_that_is_not_finite_holds() {
  check_both(
      Fault::kStateNotFinite, {},
      [](FakeLink& link) {
        link.is_following = false;
        link.state[1] = std::numeric_limits<float>::quiet_NaN();
      },
      [](FakeLink& link) { link.state[1] = link.state[0]; });
}

void a_state_of_the_future_holds() {
  check_both(
      Fault::kStateTime, {}, [](FakeLink& link) { link.state_offset_ns = 1'000'000'000; },
      [](FakeLink& link) { link.state_offset_ns = 0; });
}

void a_robot_that_starves_without_a_usable_state_is_held_by_the_state() {
  Running rig;
  while (rig.phase() != LoopPhase::kHolding) rig.tick();
  CHECK_EQUAL(rig.count(Fault::kStarved), 1U);
  rig.link->state_offset_ns = 1'000'000'000;
  while (rig.phase() != LoopPhase::kStopped) rig.tick();
  CHECK_FAULT(rig.stopped_by(), Fault::kHeldTooLong);
  CHECK_FAULT(rig.core->status().held_by.fault, Fault::kStateTime);
}

void a_state_whose_time_runs_backwards_is_noticed() {
  Running rig;
  rig.link->state_offset_ns = -50'000'000;
  rig.run(1);
  CHECK_EQUAL(rig.count(Fault::kStateTime), 1U);
  CHECK_PHASE(rig, LoopPhase::kHolding);
  rig.run(5);
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

void a_frozen_camera_holds() {
  check_both(
      Fault::kFrameStale, {.cameras = {0, 1}}, [](FakeLink& link) { link.frames[1] = link.now_ns; },
      [](FakeLink& link) { link.frames[1] = 0; }, 27);
  Running rig({.cameras = {0, 1}});
  rig.link->frames[1] = rig.link->now_ns;
  rig.run(27);
  CHECK_EQUAL(rig.events_of(Fault::kFrameStale).at(0).index, 1);
}

void a_camera_that_nobody_uses_may_freeze() {
  Running rig({.cameras = {0}});
  rig.link->frames[1] = 1;
  rig.run(100);
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

void a_frame_of_the_future_holds() {
  check_both(
      Fault::kFrameTime, {.cameras = {0}},
      [](FakeLink& link) { link.frames[0] = link.now_ns + 30'000'000'000; },
      [](FakeLink& link) { link.frames[0] = 0; });
}

void a_silent_driver_holds() {
  check_both(
      Fault::kDriverSilent, {}, [](FakeLink& link) { link.has_heartbeat = false; },
      [](FakeLink& link) { link.has_heartbeat = true; }, 4);
}

void unacknowledged_commands_hold() {
  check_both(
      Fault::kUnacknowledged, {}, [](FakeLink& link) { link.is_acknowledging = false; },
      [](FakeLink& link) { link.is_acknowledging = true; }, 5);
}

void a_blocked_joint_holds() {
  const RealtimeSettings settings{.max_following_error = {0.1, 0.1}};
  check_both(
      Fault::kFollowingError, settings,
      [](FakeLink& link) {
        link.is_following = false;
        link.state[1] += 0.2F;
      },
      [](FakeLink& link) { link.state[1] -= 0.2F; }, 4);
  Running rig(settings);
  rig.link->is_following = false;
  rig.link->state[1] += 0.2F;
  rig.run(3);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  rig.run(2);
  const Event event = rig.events_of(Fault::kFollowingError).at(0);
  CHECK_EQUAL(event.index, 1);
  CHECK_NEAR(event.value, 0.2, 1e-6);
  CHECK_EQUAL(event.limit, 0.1);
}

void a_cause_that_flickers_is_not_forgotten() {
  Running rig;
  int ticks = 0;
  while (rig.phase() != LoopPhase::kStopped) {
    rig.link->state_offset_ns = ++ticks % 10 == 0 ? 0 : 1'000'000'000;
    rig.tick();  // no chunk ever comes
    CHECK(ticks < 200);
  }
  CHECK_FAULT(rig.stopped_by(), Fault::kHeldTooLong);
}

void leaving_the_limits_stops() {
  Running rig;
  rig.link->is_following = false;
  rig.link->state[0] = 1.06F;
  rig.run(1);
  CHECK_EQUAL(rig.link->last.flags & kStopping, std::uint32_t{kStopping});
  rig.ticks_to_stop(30);
  CHECK_FAULT(rig.stopped_by(), Fault::kLeftLimits);
  CHECK_NEAR(rig.core->status().cause.value, 1.06, 1e-6);
}

void a_driver_that_fails_dies_or_stops_ends_the_session() {
  const auto ended_by = [](auto change) {
    Running rig;
    change(rig.link->driver);
    const std::uint64_t sent = rig.link->num_sent;
    rig.tick();
    CHECK_PHASE(rig, LoopPhase::kStopped);
    CHECK(rig.link->phase == LinkPhase::kStopped);
    CHECK_EQUAL(rig.link->num_sent, sent);
    return rig.stopped_by();
  };
  CHECK_FAULT(ended_by([](LinkStatus& s) { s.phase = DriverPhase::kFailed; }),
              Fault::kDriverFailed);
  CHECK_FAULT(ended_by([](LinkStatus& s) { s.phase = DriverPhase::kStopped; }),
              Fault::kDriverStopped);
  CHECK_FAULT(ended_by([](LinkStatus& s) { s.is_alive = false; }), Fault::kDriverDead);
}

void a_lost_session_stops() {
  Running rig;
  rig.link->driver.session = 77;
  rig.ticks_to_stop(30);
  CHECK_FAULT(rig.stopped_by(), Fault::kSessionLost);
}

void a_signal_stops_within_a_tick() {
  Running rig;
  rig.signal = 15;
  rig.tick();
  CHECK_EQUAL(rig.link->last.flags & kStopping, std::uint32_t{kStopping});
  rig.ticks_to_stop(30);
  CHECK_FAULT(rig.stopped_by(), Fault::kSignal);
  CHECK_EQUAL(rig.core->status().cause.value, 15.0);
}

void a_gap_starts_again_from_the_measured_state() {
  Running rig;
  CHECK(rig.phase() == LoopPhase::kRunning);
  rig.pause(100);
  rig.link->state = {0.3F, 0.3F};
  rig.link->driver.heartbeat_ns = rig.deadline_ns;
  rig.tick();
  CHECK((rig.link->last.flags & kGapBefore) != 0);
  CHECK_EQUAL(rig.command(), 0.3F);
  CHECK_EQUAL(rig.count(Fault::kGap), 1U);
  rig.run(8);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  CHECK_EQUAL(rig.command(), 0.3F);
  std::int64_t last = 0;
  for (const TickHeader& header : rig.headers()) {
    CHECK(header.sent_ns > last);
    last = header.sent_ns;
  }
}

void a_refused_step_starts_again_from_the_measured_state() {
  Running rig;
  rig.link->is_following = false;
  rig.link->state = {-0.2F, 0.1F};
  rig.link->driver.refused_steps = 1;
  rig.tick();
  CHECK_EQUAL(rig.core->command()[0], -0.2F);
  CHECK_EQUAL(rig.count(Fault::kStepRefused), 1U);
}

// Answers requests until the loop stops; the commands must stay admissible.
void feed_until_stopped(Running& rig, Fault refused, const std::vector<float>& chunk) {
  int ticks = 0;
  while (rig.phase() != LoopPhase::kStopped) {
    if (const auto request = rig.mailbox->take()) {
      rig.mailbox->answer(*request, chunk, rig.link->now_ns);
    }
    rig.tick();
    CHECK(std::abs(rig.command()) <= 1.0F);
    CHECK(++ticks < 300);
  }
  CHECK_FAULT(rig.stopped_by(), Fault::kHeldTooLong);
  CHECK_FAULT(rig.core->status().held_by.fault, refused);
}

void a_chunk_with_a_nan_is_refused() {
  std::vector<float> chunk(20, 0.0F);
  chunk[13] = std::numeric_limits<float>::quiet_NaN();
  Running rig;
  feed_until_stopped(rig, Fault::kNonFiniteChunk, chunk);
  CHECK_EQUAL(rig.events_of(Fault::kNonFiniteChunk).at(0).index, 1);
}

void a_chunk_of_a_million_is_refused_or_clamped() {
  Running watched({.max_border_jump = {0.2, 0.2}});
  feed_until_stopped(watched, Fault::kBorderJump, std::vector<float>(20, 1e6F));
  Running rig;
  for (int step = 0; step < 200; ++step) {
    rig.answer(1e6F);
    const double before = static_cast<double>(rig.command());
    rig.tick();
    CHECK(rig.command() <= 1.0F);
    CHECK(std::abs(static_cast<double>(rig.command()) - before) <= 0.02 + 1e-6);
  }
  CHECK(rig.count(Fault::kPosition) > 0U);
  CHECK_NEAR(rig.command(), 1.0, 0.05);
}

void chunks_that_alternate_are_refused_until_one_fits() {
  Running rig({.max_border_jump = {0.2, 0.2}});
  int executed = 0;
  for (int step = 0; step < 300 && rig.phase() != LoopPhase::kStopped; ++step) {
    rig.answer(step % 2 == 0 ? 0.0F : 1.0F);
    rig.tick();
    CHECK(std::abs(rig.command()) < 0.2F);
    executed += (rig.link->last.flags & kHeld) == 0 ? 1 : 0;
  }
  CHECK(executed > 20);
  CHECK(rig.count(Fault::kBorderJump) > 2U);
}

void an_old_observation_is_refused() {
  Running rig;
  const std::int64_t bound_ns = 10 * kTickNs + 1'000'000'000;
  int ticks = 0;
  while (rig.count(Fault::kLateChunk) == 0) {
    rig.answer(0.0F, 0.0F, 10, bound_ns);
    rig.tick();
    CHECK(++ticks < 50);
  }
  CHECK_PHASE(rig, LoopPhase::kHolding);
  rig.run(10);
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

// The chunk in flight continues the motion only while the robot still brakes.
void starving_holds_until_the_next_chunk() {
  Running rig;
  rig.ticks(30);
  CHECK_PHASE(rig, LoopPhase::kHolding);
  CHECK_EQUAL(rig.count(Fault::kStarved), 1U);
  CHECK(rig.core->status().is_at_rest);
  CHECK(rig.answer(rig.command()));
  rig.tick();
  CHECK_EQUAL(rig.headers().back().row, 0);
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

void an_inference_from_before_a_standstill_is_cancelled_and_dropped() {
  Running rig;
  std::optional<InferenceRequest> old;
  while (!old) {
    rig.tick();
    old = rig.mailbox->take();
  }
  rig.ticks(30);
  CHECK(rig.mailbox->is_cancelled().load());
  rig.give(*old, 0.9F);
  rig.tick();
  CHECK_PHASE(rig, LoopPhase::kHolding);
  rig.tick();
  const auto fresh = rig.mailbox->take();
  CHECK(fresh.has_value());
  CHECK(!rig.mailbox->is_cancelled().load());
  rig.give(*fresh, rig.command());
  rig.tick();
  CHECK_EQUAL(rig.headers().back().row, 0);
}

void an_inference_that_never_returns_stops() {
  for (const Mode mode : {Mode::kSync, Mode::kAsync}) {
    CoreRig rig({.mode = mode, .inference_deadline_s = 0.5});
    CHECK_FAULT(rig.start().fault, Fault::kNone);
    rig.tick();
    const auto request = rig.mailbox->take();
    rig.ticks(25);
    CHECK_PHASE(rig, LoopPhase::kRunning);
    rig.ticks(3);
    CHECK_PHASE(rig, LoopPhase::kStopped);
    CHECK_FAULT(rig.stopped_by(), Fault::kInferenceDeadline);
    CHECK_EQUAL(rig.core->status().cause.limit, 0.5);
    CHECK(rig.mailbox->is_cancelled().load());
    rig.give(*request, 0.0F);  // its late result is dropped
    rig.ticks(2);
    CHECK_FAULT(rig.start().fault, Fault::kNone);
    rig.ticks(2);
    CHECK_EQUAL(rig.headers().back().row, -1);
  }
}

void failures_are_retried_while_holding_and_then_stop() {
  Running rig({.max_retries = 3});
  int failures = 0;
  int ticks = 0;
  const auto fail = [&] {
    if (const auto request = rig.mailbox->take()) {
      rig.mailbox->fail(*request, "bus busy");
      ++failures;
    }
    rig.tick();
    CHECK(++ticks < 200);
  };
  while (failures < 3) fail();
  CHECK_PHASE(rig, LoopPhase::kHolding);
  rig.run(10);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  failures = 0;
  while (rig.phase() != LoopPhase::kStopped) fail();
  CHECK_EQUAL(failures, 4);
  CHECK_FAULT(rig.stopped_by(), Fault::kRetriesExhausted);
  CHECK_EQUAL(rig.mailbox->failure(), "bus busy");
}

void a_policy_slower_than_its_chunks_stops_with_the_figures() {
  CoreRig rig;
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  std::optional<InferenceRequest> open;
  int age = 0;
  int ticks = 0;
  while (rig.phase() != LoopPhase::kStopped) {
    rig.tick();
    if (!open) {
      open = rig.mailbox->take();
      age = 0;
    } else if (++age == 15) {  // a chunk lasts ten ticks
      rig.give(*open, rig.command());
      open.reset();
    }
    CHECK(++ticks < 400);
  }
  CHECK_FAULT(rig.stopped_by(), Fault::kPolicyTooSlow);
  CHECK(rig.core->status().cause.value > 0.29);
  CHECK_NEAR(rig.core->status().cause.limit, 0.2, 1e-9);
  CHECK_CONTAINS(describe(rig.core->status().cause), "limit 0.2 s");
}

void an_operators_stop_while_idle_is_latched() {
  CoreRig rig;
  rig.core->request_stop(StopCategory::kStopKeepPower);
  rig.tick();
  CHECK_PHASE(rig, LoopPhase::kStopped);
  CHECK(rig.link->phase == LinkPhase::kStopped);
  rig.core->request_stop(StopCategory::kStopKeepPower);
  CHECK_FAULT(rig.start().fault, Fault::kOperatorStop);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
}

void a_stop_after_a_stop_keeps_the_reason() {
  Running rig;
  rig.link->driver.phase = DriverPhase::kFailed;
  rig.tick();
  CHECK_FAULT(rig.stopped_by(), Fault::kDriverFailed);
  rig.core->request_stop(StopCategory::kStopKeepPower);
  rig.tick();
  CHECK_FAULT(rig.stopped_by(), Fault::kDriverFailed);
  rig.core->request_stop(StopCategory::kPowerOff);
  rig.tick();
  CHECK_FAULT(rig.stopped_by(), Fault::kDriverFailed);
  CHECK(rig.link->category == StopCategory::kPowerOff);
}

// As of a joint that sags under a load.
void starting_again_never_commands_a_position_outside_the_limits() {
  for (const bool is_gap : {true, false}) {
    Running rig;
    rig.link->is_following = false;
    rig.link->state = {0.0F, 1.03F};
    if (is_gap) {
      rig.pause(10);
      rig.link->driver.heartbeat_ns = rig.deadline_ns;
    } else {
      rig.link->driver.refused_steps = 1;
    }
    rig.ticks(3);
    CHECK_PHASE(rig, LoopPhase::kRunning);
    CHECK_EQUAL(rig.core->command()[1], 1.0F);
  }
}

// The smallest number is what the conversion of a NaN gives.
void a_time_before_0_is_as_good_as_none() {
  constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::min();
  Running of_state;
  of_state.link->has_new_states = false;
  of_state.link->captured_ns = kNone;
  of_state.ticks(3);
  CHECK_EQUAL(of_state.count(Fault::kStateStale), 1U);
  CHECK_PHASE(of_state, LoopPhase::kHolding);
  Running of_frame({.cameras = {0}});
  of_frame.link->frames[0] = kNone;
  of_frame.ticks(3);
  CHECK_EQUAL(of_frame.count(Fault::kFrameStale), 1U);
  CHECK_PHASE(of_frame, LoopPhase::kHolding);
  Running of_driver;
  of_driver.link->has_heartbeat = false;
  of_driver.link->driver.heartbeat_ns = kNone;
  of_driver.ticks(3);
  CHECK_EQUAL(of_driver.count(Fault::kDriverSilent), 1U);
  Running of_chunk;
  while (of_chunk.count(Fault::kLateChunk) == 0) {
    if (const auto request = of_chunk.mailbox->take()) {
      of_chunk.mailbox->answer(*request, std::vector<float>(20, 0.0F), kNone);
    }
    of_chunk.tick();
    CHECK(of_chunk.core->counts().ticks.get() < 50U);
  }
}

void a_fault_of_one_joint_does_not_hide_behind_another() {
  SpscRing events(sizeof(Event), 16);
  FaultWatch faults(events);
  for (int joint = 0; joint < 100; ++joint) {
    faults.set(Fault::kFollowingError, joint == 63, joint);
  }
  CHECK(faults.is_present(Fault::kFollowingError));
  CHECK_EQUAL(faults.first_index(Fault::kFollowingError), 63);
  faults.set(Fault::kFollowingError, true, 90);
  faults.set(Fault::kFollowingError, false, 63);
  CHECK_EQUAL(faults.first_index(Fault::kFollowingError), 90);
  faults.end(Fault::kFollowingError);
  CHECK(!faults.is_present(Fault::kFollowingError));
  CHECK_EQUAL(faults.count(Fault::kFollowingError), 2U);
}

// The request is open when the session stops, and is taken at the same moment.
void a_request_that_was_taken_stays_open_until_it_is_answered() {
  CoreRig rig;
  std::atomic<bool> is_over = false;
  std::atomic<int> num_lost = 0;
  std::thread inference([&] {
    while (!is_over.load()) {
      const auto request = rig.mailbox->take();
      if (request && !rig.mailbox->give_up(*request)) ++num_lost;
    }
  });
  for (int i = 0; i < 20'000; ++i) {
    rig.mailbox->post(0, 1);
    rig.tick();  // without a session
    while (rig.mailbox->status() != ChunkMailbox::Status::kFree) rig.tick();
  }
  is_over = true;
  inference.join();
  CHECK_EQUAL(num_lost.load(), 0);
}

}  // namespace

std::vector<Case> control_core_fault_cases() {
  return {
      {"an old state holds", an_old_state_holds},
      {"a state that is not finite holds", a_state_that_is_not_finite_holds},
      {"a state of the future holds", a_state_of_the_future_holds},
      {"a robot that starves without a usable state is held by the state",
       a_robot_that_starves_without_a_usable_state_is_held_by_the_state},
      {"a state whose time runs backwards is noticed",
       a_state_whose_time_runs_backwards_is_noticed},
      {"a frozen camera holds", a_frozen_camera_holds},
      {"a camera that nobody uses may freeze", a_camera_that_nobody_uses_may_freeze},
      {"a frame of the future holds", a_frame_of_the_future_holds},
      {"a silent driver holds", a_silent_driver_holds},
      {"unacknowledged commands hold", unacknowledged_commands_hold},
      {"a blocked joint holds", a_blocked_joint_holds},
      {"a cause that flickers is not forgotten", a_cause_that_flickers_is_not_forgotten},
      {"leaving the limits stops", leaving_the_limits_stops},
      {"a driver that fails, dies or stops ends the session",
       a_driver_that_fails_dies_or_stops_ends_the_session},
      {"a lost session stops", a_lost_session_stops},
      {"a signal stops within a tick", a_signal_stops_within_a_tick},
      {"a gap starts again from the measured state", a_gap_starts_again_from_the_measured_state},
      {"a refused step starts again from the measured state",
       a_refused_step_starts_again_from_the_measured_state},
      {"a chunk with a NaN is refused", a_chunk_with_a_nan_is_refused},
      {"a chunk of a million is refused or clamped", a_chunk_of_a_million_is_refused_or_clamped},
      {"chunks that alternate are refused until one fits",
       chunks_that_alternate_are_refused_until_one_fits},
      {"an old observation is refused", an_old_observation_is_refused},
      {"starving holds until the next chunk", starving_holds_until_the_next_chunk},
      {"an inference from before a standstill is cancelled and dropped",
       an_inference_from_before_a_standstill_is_cancelled_and_dropped},
      {"an inference that never returns stops", an_inference_that_never_returns_stops},
      {"failures are retried while holding and then stop",
       failures_are_retried_while_holding_and_then_stop},
      {"a policy slower than its chunks stops with the figures",
       a_policy_slower_than_its_chunks_stops_with_the_figures},
      {"an operator's stop while idle is latched", an_operators_stop_while_idle_is_latched},
      {"a stop after a stop keeps the reason", a_stop_after_a_stop_keeps_the_reason},
      {"starting again never commands a position outside the limits",
       starting_again_never_commands_a_position_outside_the_limits},
      {"a time before 0 is as good as none", a_time_before_0_is_as_good_as_none},
      {"a fault of one joint does not hide behind another",
       a_fault_of_one_joint_does_not_hide_behind_another},
      {"a request that was taken stays open until it is answered",
       a_request_that_was_taken_stays_open_until_it_is_answered},
  };
}

}  // namespace flux::test
