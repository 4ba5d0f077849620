// How chunks follow each other in each mode, and at a lower speed.
#include <cmath>
#include <limits>

#include "allocations.hpp"
#include "check.hpp"
#include "flux/control_loop.hpp"
#include "loop_rig.hpp"

namespace flux::test {
namespace {

ControlLoopConfig ensemble_config(int inference_delay) {
  return {.execution_horizon = 3, .mode = Mode::kEnsemble, .inference_delay = inference_delay};
}

// What the toy policy makes of noise.
float action(float noise) { return toy_action(1.0F, 0.0F) * noise; }

void with_a_delay_a_sync_robot_stands_until_its_chunk() {
  ControlLoopConfig config = sync_config(2);
  config.inference_delay = 3;
  LoopRig rig(config);
  for (int chunk = 0; chunk < 3; ++chunk) {
    const float first = 10.0F * static_cast<float>(chunk + 1);
    CHECK(rig.loop->needs_observation());
    rig.submit(first);
    const float standing = rig.loop->command()[0];
    for (int tick = 0; tick < 3; ++tick) {
      CHECK(!rig.loop->needs_observation());
      CHECK_EQUAL(rig.tick(), std::uint32_t{kHeld});
      CHECK_EQUAL(rig.loop->command()[0], standing);
      CHECK(std::isnan(rig.loop->asked()[0]));
    }
    for (int row = 0; row < 2; ++row) {
      CHECK_EQUAL(rig.tick(), row == 0 ? std::uint32_t{kNewChunk} : 0U);
      CHECK_NEAR(rig.row(first), row, 1e-4);
      CHECK_EQUAL(rig.loop->asked()[0], rig.loop->command()[0]);
    }
  }
  CHECK_EQUAL(rig.loop->counts().held_ticks, 9U);
  CHECK_EQUAL(rig.loop->counts().deadline_misses, 0U);
}

void an_ensemble_asks_as_soon_as_the_last_chunk_has_come() {
  for (const int delay : {0, 1, 2, 3}) {
    LoopRig rig(ensemble_config(delay));
    std::vector<int> observed;
    for (int tick = 0; tick < 12; ++tick) {
      if (rig.loop->needs_observation()) {
        observed.push_back(tick);
        rig.submit(0.0F);
      }
      rig.tick();
    }
    for (std::size_t i = 0; i < observed.size(); ++i) {
      CHECK_EQUAL(observed[i], static_cast<int>(i) * std::max(delay, 1));
    }
    CHECK_EQUAL(rig.loop->counts().held_ticks, static_cast<std::uint64_t>(delay));
  }
}

void an_ensemble_averages_the_predictions_of_a_moment() {
  LoopRig rig(ensemble_config(0));
  std::vector<float> firsts;
  for (int tick = 0; tick < 8; ++tick) {
    CHECK(rig.loop->needs_observation());
    firsts.push_back(static_cast<float>(tick % 3));
    rig.submit(firsts.back());
    CHECK_EQUAL(rig.tick(), std::uint32_t{kNewChunk});
    // The chunk of k ticks ago predicts first + k for this tick; the oldest has 6 rows.
    double sum = 0.0;
    double weights = 0.0;
    for (int i = 0, oldest = std::max(0, tick - 5); oldest + i <= tick; ++i) {
      const int age = tick - oldest - i;
      const double weight = std::exp(-0.01 * i);
      sum += weight * static_cast<double>(action(firsts[static_cast<std::size_t>(tick - age)] +
                                                 static_cast<float>(age)));
      weights += weight;
    }
    CHECK_NEAR(static_cast<double>(rig.loop->asked()[0]), sum / weights, 1e-4);
  }
}

// Ticks until `count` chunks have begun, with chunks whose first value is 100 times their number;
// returns what was asked for at each tick.
std::vector<float> play(LoopRig& rig, int num_ticks, std::vector<int>* observed = nullptr) {
  std::vector<float> asked;
  int chunk = 0;
  for (int tick = 0; tick < num_ticks; ++tick) {
    if (rig.loop->needs_observation()) {
      if (observed != nullptr) observed->push_back(tick);
      rig.submit(100.0F * static_cast<float>(chunk++));
    }
    rig.tick();
    asked.push_back(rig.loop->asked()[0]);
  }
  return asked;
}

void in_rtc_a_chunk_begins_with_the_rows_of_the_last_one() {
  // H 6, s 3, d 2, and the chunk takes over after 1 tick or 2.
  for (const int delay : {1, 2}) {
    LoopRig rig(rtc_config(3, delay, {0, 2}));
    std::vector<int> observed;
    const std::vector<float> asked = play(rig, 20, &observed);
    // The first chunk continues nothing; from then on one is asked for 2 rows before row 3.
    for (int tick = 0; tick < delay; ++tick)
      CHECK(std::isnan(asked[static_cast<std::size_t>(tick)]));
    CHECK_EQUAL(observed[1], delay + 1);
    CHECK_EQUAL(observed[2] - observed[1], delay + 1);
    const auto at = [&](int tick) { return asked[static_cast<std::size_t>(tick)]; };
    // Before, while and after the second chunk takes over: rows 0 to 2 are the first chunk's, and
    // what follows them is the second's row 2.
    for (int row = 0; row < 3; ++row) {
      CHECK_EQUAL(at(delay + row), action(static_cast<float>(row)));
    }
    CHECK_EQUAL(at(delay + 3), action(102.0F));
    const ControlCounts& counts = rig.loop->counts();
    CHECK_EQUAL(counts.prefixes.size(), 7U);
    CHECK_EQUAL(counts.prefixes[0], 1U);
    CHECK_EQUAL(counts.prefixes[0] + counts.prefixes[2], counts.chunks);
  }
}

void in_rtc_a_hold_leaves_nothing_to_continue() {
  bool is_broken = false;
  Hooks hooks;
  hooks.on_prefix = [&] {
    if (is_broken) throw std::runtime_error("device lost");
  };
  LoopRig rig(rtc_config(3, 1, {0, 2}), hooks);
  const auto advance = [&] {
    try {
      if (rig.loop->needs_observation()) rig.submit(0.0F);
    } catch (const std::runtime_error&) {
    }
    rig.tick();
    rig.loop->wait_for_inference();
  };
  for (int tick = 0; tick < 5; ++tick) advance();
  CHECK_EQUAL(rig.loop->counts().prefixes[0], 1U);
  is_broken = true;
  while (rig.loop->counts().held_ticks < 3) advance();
  is_broken = false;
  while (rig.loop->counts().prefixes[0] < 2) advance();
  for (int tick = 0; tick < 5; ++tick) advance();
  CHECK_EQUAL(rig.loop->counts().prefixes[0], 2U);
}

void in_rtc_rows_that_are_not_finite_are_not_continued() {
  int inference = 0;
  Hooks hooks;
  hooks.on_prefix = [&] { ++inference; };
  hooks.on_step = [&](const Memory& memory) {
    if (inference == 1) {
      memory.find("x_next")->second[4 * kActionDim] = std::numeric_limits<float>::quiet_NaN();
    }
  };
  LoopRig rig(rtc_config(3, 1, {0, 2}), hooks);
  play(rig, 12);
  CHECK_EQUAL(rig.loop->counts().non_finite, 0U);
  CHECK_EQUAL(rig.loop->counts().prefixes[0], 2U);
}

void in_rtc_guidance_keeps_what_was_executed() {
  ControlLoopConfig config = rtc_config(3, 2);
  config.continuation.method = ContinuationMethod::kGuidance;
  LoopRig rig(config);
  const std::vector<float> asked = play(rig, 12);
  for (int row = 0; row < 3; ++row) {
    CHECK_EQUAL(asked[static_cast<std::size_t>(2 + row)], action(static_cast<float>(row)));
  }
  CHECK(rig.loop->counts().prefixes[2] > 0);
  // By itself, the second chunk would have action(102) here, and the first one action(3).
  CHECK(asked[5] < action(80.0F));
}

void at_a_lower_speed_the_rows_take_longer() {
  ControlLoopConfig config = sync_config(4);
  config.speed = 0.5;
  LoopRig rig(config);
  std::vector<int> observed;
  std::vector<float> rows;
  for (int tick = 0; tick < 16; ++tick) {
    if (rig.loop->needs_observation()) {
      observed.push_back(tick);
      rig.submit(0.0F);
    }
    rig.tick();
    rows.push_back(rig.row(0.0F));
  }
  CHECK(observed == (std::vector{0, 8}));
  // The toy's chunks are straight lines, which their spline follows.
  for (int tick = 0; tick < 16; ++tick) {
    CHECK_NEAR(rows[static_cast<std::size_t>(tick)], 0.5 * (tick % 8), 1e-3);
  }
}

void at_a_lower_speed_delays_are_counted_in_rows() {
  for (const double speed : {0.3, 0.5, 0.75}) {
    ControlLoopConfig config = rtc_config(3, 3, {0, 1, 2, 3});
    config.speed = speed;
    LoopRig rig(config);
    const std::vector<float> asked = play(rig, 60);
    CHECK_EQUAL(rig.loop->counts().held_ticks, 3U);
    const auto delay = static_cast<std::size_t>(std::ceil(3 * speed));
    CHECK_EQUAL(rig.loop->counts().prefixes[0], 1U);
    CHECK_EQUAL(rig.loop->counts().prefixes[delay] + 1, rig.loop->counts().chunks);
    CHECK(rig.loop->counts().chunks > 5U);
  }
}

void no_mode_allocates_in_a_tick() {
  ControlLoopConfig slow = rtc_config(3, 2, {0, 2});
  slow.speed = 0.7;
  for (const ControlLoopConfig& config : {ensemble_config(0), rtc_config(3, 2, {0, 2}), slow}) {
    LoopRig rig(config);
    std::size_t in_ticks = 0;
    for (int step = 0; step < 40; ++step) {
      if (rig.loop->needs_observation()) rig.submit(0.0F);
      rig.loop->wait_for_inference();
      const std::size_t before = num_allocations();
      rig.tick();
      in_ticks += num_allocations() - before;
    }
    CHECK_EQUAL(in_ticks, 0U);
    CHECK(rig.loop->counts().chunks > 5U);
  }
}

}  // namespace

std::vector<Case> control_loop_mode_cases() {
  return {
      {"with a delay a sync robot stands until its chunk",
       with_a_delay_a_sync_robot_stands_until_its_chunk},
      {"an ensemble asks as soon as the last chunk has come",
       an_ensemble_asks_as_soon_as_the_last_chunk_has_come},
      {"an ensemble averages the predictions of a moment",
       an_ensemble_averages_the_predictions_of_a_moment},
      {"in rtc a chunk begins with the rows of the last one",
       in_rtc_a_chunk_begins_with_the_rows_of_the_last_one},
      {"in rtc a hold leaves nothing to continue", in_rtc_a_hold_leaves_nothing_to_continue},
      {"in rtc rows that are not finite are not continued",
       in_rtc_rows_that_are_not_finite_are_not_continued},
      {"in rtc guidance keeps what was executed", in_rtc_guidance_keeps_what_was_executed},
      {"at a lower speed the rows take longer", at_a_lower_speed_the_rows_take_longer},
      {"at a lower speed delays are counted in rows", at_a_lower_speed_delays_are_counted_in_rows},
      {"no mode allocates in a tick", no_mode_allocates_in_a_tick},
  };
}

}  // namespace flux::test
