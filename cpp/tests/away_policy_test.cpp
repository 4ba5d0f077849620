// A policy on another machine: how long the control thread waits for it while it is away.
#include <stdexcept>
#include <string>

#include "check.hpp"
#include "core_rig.hpp"

namespace flux::test {
namespace {

// A session that has executed a few rows.
struct Running : CoreRig {
  explicit Running(const RealtimeSettings& settings) : CoreRig(settings) {
    CHECK_FAULT(start().fault, Fault::kNone);
    run(6);
    CHECK_PHASE(*this, LoopPhase::kRunning);
  }
};

// A policy that is away: its requests fail, or nobody takes them.
RealtimeSettings waiting_settings() {
  return {
      .hold_for_s = 0.4, .chunk_hold_for_s = 2.0, .inference_deadline_s = 10.0, .max_retries = 2};
}

void fail_requests(CoreRig& rig, int ticks) {
  for (int i = 0; i < ticks; ++i) {
    if (const auto request = rig.mailbox->take()) rig.mailbox->fail(*request, "no route to host");
    rig.tick();
  }
}

void a_policy_that_comes_back_within_its_own_bound_goes_on() {
  for (const bool fails : {false, true}) {
    Running rig(waiting_settings());
    fails ? fail_requests(rig, 90) : rig.ticks(90);  // 1.8 s
    CHECK_PHASE(rig, LoopPhase::kHolding);
    CHECK(rig.core->status().is_at_rest);
    CHECK_EQUAL(rig.count(Fault::kRetriesExhausted), 0U);
    if (fails) CHECK(rig.count(Fault::kInferenceFailed) > 10U);
    rig.run(10);
    CHECK_PHASE(rig, LoopPhase::kRunning);
    // The next time it has the whole bound again.
    fails ? fail_requests(rig, 90) : rig.ticks(90);
    CHECK_PHASE(rig, LoopPhase::kHolding);
  }
}

void a_policy_that_stays_away_stops_and_stays_stopped() {
  for (const bool fails : {false, true}) {
    Running rig(waiting_settings());
    int ticks = 0;
    while (rig.phase() != LoopPhase::kStopped) {
      fails ? fail_requests(rig, 1) : rig.ticks(1);
      CHECK(++ticks < 150);
    }
    CHECK(ticks > 100);
    CHECK_FAULT(rig.stopped_by(), Fault::kHeldTooLong);
    CHECK_FAULT(rig.core->status().held_by.fault,
                fails ? Fault::kInferenceFailed : Fault::kStarved);
    CHECK_EQUAL(rig.core->status().cause.limit, 2.0);
    rig.run(20);
    CHECK_PHASE(rig, LoopPhase::kStopped);
    CHECK_FAULT(rig.start().fault, Fault::kNone);
    rig.run(5);
    CHECK_PHASE(rig, LoopPhase::kRunning);
  }
}

void what_no_chunk_ends_keeps_its_bound_while_the_policy_is_away() {
  Running rig(waiting_settings());
  rig.ticks(60);
  // For a while it is a hold like any other.
  rig.link->has_new_states = false;
  rig.ticks(20);
  rig.link->has_new_states = true;
  rig.ticks(5);
  CHECK_PHASE(rig, LoopPhase::kHolding);
  rig.run(10);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  // It lasts as long as it may, although the policy could still come back.
  rig.ticks(40);
  rig.link->has_new_states = false;
  int ticks = 0;
  while (rig.phase() != LoopPhase::kStopped) {
    rig.tick();
    CHECK(++ticks < 45);
  }
  CHECK(ticks >= 20);
  CHECK_FAULT(rig.stopped_by(), Fault::kHeldTooLong);
  CHECK_FAULT(rig.core->status().held_by.fault, Fault::kStateStale);
  CHECK_EQUAL(rig.core->status().cause.limit, 0.4);
}

void a_policy_may_not_be_waited_for_less_than_anything_else() {
  bool is_refused = false;
  try {
    CoreRig rig({.hold_for_s = 2.0, .chunk_hold_for_s = 1.0});
  } catch (const std::invalid_argument& error) {
    is_refused = std::string(error.what()).starts_with("chunk_hold_for_s: expected");
  }
  CHECK(is_refused);
}

}  // namespace

std::vector<Case> away_policy_cases() {
  return {
      {"a policy that comes back within its own bound goes on",
       a_policy_that_comes_back_within_its_own_bound_goes_on},
      {"a policy that stays away stops and stays stopped",
       a_policy_that_stays_away_stops_and_stays_stopped},
      {"what no chunk ends keeps its bound while the policy is away",
       what_no_chunk_ends_keeps_its_bound_while_the_policy_is_away},
      {"a policy may not be waited for less than anything else",
       a_policy_may_not_be_waited_for_less_than_anything_else},
  };
}

}  // namespace flux::test
