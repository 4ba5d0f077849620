#include "check.hpp"
#include "flux/action_decoder.hpp"
#include "flux/chunk_scheduler.hpp"

namespace flux::test {
namespace {

Chunk counted_chunk(int rows, std::int64_t first_tick) {
  Chunk chunk;
  for (int i = 0; i < rows; ++i) chunk.actions.push_back(static_cast<float>(i));
  chunk.first_tick = first_tick;
  return chunk;
}

void without_a_chunk_one_is_wanted_and_no_action_is_given() {
  const ChunkScheduler scheduler(1, 4);
  CHECK(scheduler.wants_chunk(0));
  CHECK(scheduler.action(0).empty());
  CHECK(!scheduler.has_chunk());
}

void rows_count_from_the_tick_of_the_observation() {
  ChunkScheduler scheduler(1, 4);
  Chunk chunk = counted_chunk(6, 10);
  scheduler.activate(chunk, 12);
  CHECK_EQUAL(scheduler.action(12)[0], 2.0F);
  CHECK_EQUAL(scheduler.action(15)[0], 5.0F);
  CHECK(scheduler.action(16).empty());
  CHECK(scheduler.action(9).empty());
}

void the_rows_after_an_action_are_its_preview() {
  ChunkScheduler scheduler(1, 4);
  CHECK(scheduler.preview(0).empty());
  Chunk chunk = counted_chunk(6, 10);
  scheduler.activate(chunk, 12);
  CHECK_EQUAL(scheduler.preview(12).size(), 3U);
  CHECK_EQUAL(scheduler.preview(12)[0], 3.0F);
  CHECK(scheduler.preview(15).empty());
  CHECK(scheduler.preview(16).empty());
}

void the_next_chunk_is_wanted_a_lead_before_the_execution_horizon() {
  ChunkScheduler scheduler(1, 4);
  scheduler.set_lead(1);
  Chunk chunk = counted_chunk(6, 0);
  scheduler.activate(chunk, 1);
  CHECK(!scheduler.wants_chunk(3));
  CHECK(scheduler.wants_chunk(4));
  scheduler.set_lead(99);
  CHECK(scheduler.wants_chunk(1));
}

void activating_swaps_memory_instead_of_copying_it() {
  ChunkScheduler scheduler(1, 2);
  Chunk first = counted_chunk(6, 0);
  const float* memory = first.actions.data();
  scheduler.activate(first, 0);
  CHECK_EQUAL(scheduler.chunk().actions.data(), memory);
  Chunk second = counted_chunk(6, 2);
  scheduler.activate(second, 2);
  CHECK_EQUAL(second.actions.data(), memory);
}

void decoding_scales_shifts_and_adds_the_state_where_relative() {
  const std::vector scale{2.0F, 0.5F};
  const std::vector offset{1.0F, -1.0F};
  const std::vector<std::uint8_t> mask{1, 0};
  const ActionDecoder decoder(scale, offset, mask);
  const std::vector normalised{1.0F, 2.0F, 9.0F, -1.0F, 0.0F, 9.0F};  // (2, 3), one column padding
  const std::vector state{10.0F, 20.0F};
  std::vector<float> actions(4);
  decoder.decode(normalised, 3, state, actions);
  CHECK(actions == (std::vector{13.0F, 0.0F, 9.0F, -1.0F}));
  CHECK_CONTAINS(
      message_of<std::invalid_argument>([&] { ActionDecoder(scale, std::vector{1.0F}, mask); }),
      "2, 1 and 2");
  CHECK_CONTAINS(message_of<std::invalid_argument>(
                     [&] { ActionDecoder(std::vector{1.0F, std::nanf("")}, offset, mask); }),
                 "scale[1]");
}

}  // namespace

std::vector<Case> scheduler_cases() {
  return {
      {"without a chunk one is wanted and no action is given",
       without_a_chunk_one_is_wanted_and_no_action_is_given},
      {"rows count from the tick of the observation", rows_count_from_the_tick_of_the_observation},
      {"the rows after an action are its preview", the_rows_after_an_action_are_its_preview},
      {"the next chunk is wanted a lead before the execution horizon",
       the_next_chunk_is_wanted_a_lead_before_the_execution_horizon},
      {"activating swaps memory instead of copying it",
       activating_swaps_memory_instead_of_copying_it},
      {"decoding scales, shifts and adds the state where relative",
       decoding_scales_shifts_and_adds_the_state_where_relative},
  };
}

}  // namespace flux::test
