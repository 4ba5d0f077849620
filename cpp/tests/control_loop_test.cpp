// How chunks and ticks follow each other when nothing goes wrong.
#include "flux/control_loop.hpp"

#include <cmath>

#include "allocations.hpp"
#include "check.hpp"
#include "loop_rig.hpp"

namespace flux::test {
namespace {

void the_start_is_held_until_the_first_chunk() {
  LoopRig rig(sync_config(4));
  CHECK(rig.loop->needs_observation());
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  CHECK_EQUAL(rig.loop->command()[0], 0.0F);
  CHECK_EQUAL(rig.loop->counts().held_ticks, 1U);
}

void a_sync_chunk_is_executed_for_the_execution_horizon() {
  LoopRig rig(sync_config(4));
  for (int chunk = 0; chunk < 3; ++chunk) {
    const float first = 10.0F * static_cast<float>(chunk);
    CHECK(rig.loop->needs_observation());
    rig.submit(first);
    for (int row = 0; row < 4; ++row) {
      CHECK(!rig.loop->needs_observation());
      CHECK_EQUAL(rig.tick(), row == 0 ? std::uint32_t{kNewChunk} : 0U);
      CHECK_NEAR(rig.row(first), row, 1e-4);
    }
  }
  CHECK_EQUAL(rig.loop->counts().chunks, 3U);
  CHECK_EQUAL(rig.loop->counts().deadline_misses, 0U);
}

// Rows that are not executed meanwhile, as before the first chunk, are not skipped.
void an_async_chunk_takes_over_after_the_delay_and_skips_what_was_executed() {
  LoopRig rig(async_config(4, 2));
  CHECK(rig.loop->needs_observation());
  rig.submit(0.0F);
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  for (int chunk = 0; chunk < 3; ++chunk) {
    const float first = 10.0F * static_cast<float>(chunk);
    for (int executed = 0; executed < 4; ++executed) {
      CHECK_EQUAL(rig.loop->needs_observation(), executed == 2);
      if (executed == 2) rig.submit(first + 10.0F);
      CHECK_EQUAL(rig.tick(), executed == 0 ? std::uint32_t{kNewChunk} : 0U);
      CHECK_NEAR(rig.row(first), chunk == 0 ? executed : executed + 2, 1e-4);
    }
  }
}

void an_async_chunk_without_delay_is_waited_for() {
  LoopRig rig(async_config(6, 0));
  rig.submit(0.0F);
  CHECK_EQUAL(rig.tick(), std::uint32_t{kNewChunk});
  CHECK_NEAR(rig.row(0.0F), 0.0, 1e-4);
}

void a_ready_chunk_begins_at_the_coming_tick() {
  LoopRig rig(sync_config(2), nullptr);
  CHECK(rig.loop->needs_observation());
  rig.loop->submit_chunk(std::vector{1.0F, 1.0F, 2.0F, 2.0F});
  CHECK(!rig.loop->needs_observation());
  CHECK_EQUAL(rig.tick(), std::uint32_t{kNewChunk});
  CHECK_EQUAL(rig.loop->command()[1], 1.0F);
  CHECK_EQUAL(rig.tick(), 0U);
  CHECK(rig.loop->needs_observation());
  CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
  CHECK_EQUAL(rig.loop->command()[1], 2.0F);
}

void a_tick_allocates_nothing() {
  LoopRig rig(async_config(4, 2));
  std::size_t in_ticks = 0;
  for (int step = 0; step < 40; ++step) {
    if (rig.loop->needs_observation()) rig.submit(0.0F);
    const std::size_t before = num_allocations();
    rig.tick();
    in_ticks += num_allocations() - before;
  }
  CHECK_EQUAL(in_ticks, 0U);
  CHECK(rig.loop->counts().chunks > 5U);
  CHECK_EQUAL(rig.loop->tick_times().count(), 40U);
}

void invalid_arguments_are_refused_with_their_values() {
  using Error = std::invalid_argument;
  const auto message = [](const ControlLoopConfig& config) {
    return message_of<Error>([&] { LoopRig rig(config); });
  };
  CHECK_CONTAINS(message(sync_config(0)), "execution_horizon: expected 1 to");
  CHECK_CONTAINS(message(sync_config(7)), "action_horizon 6, got 7");
  CHECK_CONTAINS(message(async_config(4, 3)), "inference_delay: expected 0 to 2");
  CHECK_CONTAINS(message(async_config(2, 3)), "inference_delay: expected 0 to 2");
  CHECK_CONTAINS(message(async_config(4, -1)), "got -1");
  ControlLoopConfig config = sync_config(4);
  config.inference_delay = -1;
  CHECK_CONTAINS(message(config), "inference_delay: expected 0 to");
  config = async_config(4, 4);
  config.speed = 0.5;
  CHECK_EQUAL(message(config), "");
  config.inference_delay = 5;
  CHECK_CONTAINS(message(config), "got 5 (3 rows)");
  for (const double speed : {0.0, 1.1, std::nan("")}) {
    config.speed = speed;
    CHECK_CONTAINS(message(config), "speed: expected a number above 0 and at most 1");
  }
  config = sync_config(4);
  config.mode = Mode::kEnsemble;
  config.inference_delay = 4;
  CHECK_CONTAINS(message(config), "inference_delay: expected 0 to 3 (half of action_horizon 6)");
  config = rtc_config(3, 2);
  CHECK_CONTAINS(message(config),
                 "a usable delay d <= execution_horizon 3 <= action_horizon 6 - d");
  config.continuation.delays = {0, 7};
  CHECK_CONTAINS(message(config), "delays: expected ascending numbers");
  CHECK_CONTAINS(message_of<Error>([&] { LoopRig rig(config, nullptr); }),
                 "mode: expected 'sync', 'async' or 'ensemble', got 'rtc' with no policy");
  config = sync_config(4);
  config.stale_after_s = std::nan("");
  CHECK_CONTAINS(message(config), "stale_after_s");
}

void calls_out_of_turn_are_refused() {
  LoopRig rig(sync_config(4));
  CHECK_CONTAINS(
      message_of<std::logic_error>([&] { rig.loop->start(std::vector<float>(kActionDim)); }),
      "start: expected a loop that has not started");
  CHECK_CONTAINS(
      message_of<std::invalid_argument>([&] { rig.loop->submit_chunk(std::vector{1.0F, 1.0F}); }),
      "execution_horizon 4");
  rig.submit(0.0F);
  CHECK_CONTAINS(message_of<std::logic_error>([&] { rig.submit(0.0F); }),
                 "submit: expected no pending chunk");
  LoopRig without(sync_config(4), nullptr);
  CHECK_CONTAINS(message_of<std::logic_error>([&] { without.submit(0.0F); }),
                 "submit: expected a loop with a policy");
  without.loop->stop();
  CHECK_CONTAINS(message_of<std::logic_error>([&] { (void)without.loop->needs_observation(); }),
                 "expected a running loop, got a stopped one");
}

}  // namespace

std::vector<Case> control_loop_cases() {
  return {
      {"the start is held until the first chunk", the_start_is_held_until_the_first_chunk},
      {"a sync chunk is executed for the execution horizon",
       a_sync_chunk_is_executed_for_the_execution_horizon},
      {"an async chunk takes over after the delay and skips what was executed",
       an_async_chunk_takes_over_after_the_delay_and_skips_what_was_executed},
      {"an async chunk without delay is waited for", an_async_chunk_without_delay_is_waited_for},
      {"a ready chunk begins at the coming tick", a_ready_chunk_begins_at_the_coming_tick},
      {"a tick allocates nothing", a_tick_allocates_nothing},
      {"invalid arguments are refused with their values",
       invalid_arguments_are_refused_with_their_values},
      {"calls out of turn are refused", calls_out_of_turn_are_refused},
  };
}

}  // namespace flux::test
