// How the loop behaves when the network, the clock or the caller fails.
#include <atomic>
#include <limits>
#include <thread>

#include "check.hpp"
#include "flux/control_loop.hpp"
#include "loop_rig.hpp"

namespace flux::test {
namespace {

void slow_inference_in_submit_is_a_missed_deadline() {
  SimulatedClock* wall = nullptr;
  Hooks hooks;
  hooks.on_prefix = [&] { wall->advance_ns(kPeriodNs + 1); };
  LoopRig rig(sync_config(2), hooks);
  wall = rig.wall;
  rig.submit(0.0F);
  rig.tick();
  CHECK_EQUAL(rig.loop->counts().deadline_misses, 1U);
  rig.tick();
  CHECK_EQUAL(rig.loop->counts().deadline_misses, 1U);
}

void a_late_chunk_lets_the_old_one_run_on_and_then_holds() {
  LoopRig rig(sync_config(4));
  rig.submit(0.0F);
  for (int row = 0; row < kActionHorizon; ++row) {
    CHECK_EQUAL(rig.tick() & kHeld, 0U);
    CHECK_NEAR(rig.row(0.0F), row, 1e-4);
  }
  CHECK(rig.loop->needs_observation());
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  CHECK_NEAR(rig.row(0.0F), kActionHorizon - 1, 1e-4);
  CHECK_EQUAL(rig.loop->counts().held_ticks, 1U);
  rig.submit(20.0F);
  CHECK_EQUAL(rig.tick(), std::uint32_t{kNewChunk});
  CHECK_NEAR(rig.row(20.0F), 0.0, 1e-4);
}

void a_nan_from_the_network_is_held_and_counted() {
  Hooks hooks;
  hooks.on_step = [](const Memory& memory) {
    memory.find("x_next")->second[kActionDim + 1] = std::numeric_limits<float>::quiet_NaN();
  };
  LoopRig rig(sync_config(3), hooks);
  rig.submit(1.0F);
  CHECK_EQUAL(rig.tick(), std::uint32_t{kNewChunk});
  const float last = rig.loop->command()[0];
  CHECK_EQUAL(rig.tick(), std::uint32_t{kNonFinite} | std::uint32_t{kHeld});
  CHECK_EQUAL(rig.loop->command()[0], last);
  CHECK_EQUAL(rig.tick(), 0U);
  CHECK_EQUAL(rig.loop->counts().non_finite, 1U);
}

void a_chunk_exhausted_for_too_long_is_stale() {
  ControlLoopConfig config = sync_config(4);
  config.stale_after_s = 0.1;
  LoopRig rig(config);
  rig.submit(0.0F);
  for (int step = 0; step < 20; ++step) rig.tick();
  CHECK_EQUAL(rig.loop->counts().held_ticks, 14U);
  CHECK_EQUAL(rig.loop->counts().stale, 8U);
  rig.submit(0.0F);
  CHECK_EQUAL(rig.tick(), std::uint32_t{kNewChunk});
}

void stopping_during_inference_waits_for_it() {
  std::atomic<bool> is_running = false;
  std::atomic<bool> may_go = false;
  Hooks hooks;
  hooks.on_prefix = [&] {
    is_running = true;
    is_running.notify_all();
    may_go.wait(false);
  };
  LoopRig rig(async_config(3, 0), hooks);
  rig.submit(0.0F);
  is_running.wait(false);
  std::thread release([&] {
    may_go = true;
    may_go.notify_all();
  });
  rig.loop->stop();
  release.join();
  CHECK_EQUAL(rig.loop->inference_times()->inference.count(), 1U);
  CHECK_EQUAL(rig.loop->tick(), std::uint32_t{kHeld} | std::uint32_t{kNewChunk});
  rig.loop->stop();
}

void a_failing_inference_holds_and_is_reported_once() {
  std::atomic<bool> is_broken = true;
  Hooks hooks;
  hooks.on_prefix = [&] {
    if (is_broken) throw std::runtime_error("device lost");
  };
  LoopRig rig(async_config(3, 1), hooks);
  rig.submit(0.0F);
  rig.loop->wait_for_inference();
  CHECK(!rig.loop->needs_observation());  // reported only once the chunk is due
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  const auto ask = [&] { (void)rig.loop->needs_observation(); };
  CHECK_EQUAL(message_of<std::runtime_error>(ask), "inference failed: device lost");
  CHECK_EQUAL(message_of<std::runtime_error>(ask), "");
  CHECK(rig.loop->needs_observation());
  is_broken = false;
  rig.submit(0.0F);
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  CHECK_EQUAL(rig.tick(), std::uint32_t{kNewChunk});
  CHECK_NEAR(rig.row(0.0F), 0.0, 1e-4);  // nothing was executed meanwhile
}

void a_failing_inference_in_submit_holds() {
  bool is_broken = false;
  Hooks hooks;
  hooks.on_prefix = [&] {
    if (is_broken) throw std::runtime_error("device lost");
  };
  LoopRig rig(sync_config(3), hooks);
  rig.submit(0.0F);
  rig.tick();
  is_broken = true;
  CHECK_EQUAL(message_of<std::runtime_error>([&] { rig.submit(0.0F); }), "device lost");
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  CHECK(rig.loop->needs_observation());
}

void a_start_that_is_not_finite_is_refused() {
  LoopRig rig(sync_config(3), nullptr);
  const std::vector<double> low(1, -1.0);
  const std::vector<double> high(1, 1.0);
  const std::vector<float> one(1, 1.0F);
  const std::vector<std::uint8_t> mask(1, 0);
  ControlLoop loop({.control_hz = kControlHz}, nullptr, ActionDecoder(one, one, mask),
                   SafetyLimits(low, high, high));
  CHECK_CONTAINS(message_of<std::logic_error>([&] { (void)loop.needs_observation(); }), "start()");
  CHECK_CONTAINS(message_of<std::invalid_argument>(
                     [&] { loop.start(std::vector{std::numeric_limits<float>::infinity()}); }),
                 "command[0]: expected a finite number");
  CHECK_CONTAINS(message_of<std::invalid_argument>([&] { loop.start(std::vector{0.0F, 0.0F}); }),
                 "expected 1 values, got 2");
}

}  // namespace

std::vector<Case> control_loop_fault_cases() {
  return {
      {"slow inference in submit is a missed deadline",
       slow_inference_in_submit_is_a_missed_deadline},
      {"a late chunk lets the old one run on and then holds",
       a_late_chunk_lets_the_old_one_run_on_and_then_holds},
      {"a NaN from the network is held and counted", a_nan_from_the_network_is_held_and_counted},
      {"a chunk exhausted for too long is stale", a_chunk_exhausted_for_too_long_is_stale},
      {"stopping during inference waits for it", stopping_during_inference_waits_for_it},
      {"a failing inference holds and is reported once",
       a_failing_inference_holds_and_is_reported_once},
      {"a failing inference in submit holds", a_failing_inference_in_submit_holds},
      {"a start that is not finite is refused", a_start_that_is_not_finite_is_refused},
  };
}

}  // namespace flux::test
