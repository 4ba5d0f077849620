// Decides which row of which chunk a tick executes, and when the next chunk is needed. Ticks are
// integers; nothing here depends on time, threads or robots, and nothing allocates.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace flux {

// Actions in robot units, and the tick for which the first one was predicted.
struct Chunk {
  std::vector<float> actions;  // (H, A)
  std::int64_t first_tick = 0;
};

class ChunkScheduler {
 public:
  // Args:
  //   action_dim: A.
  //   execution_horizon: ticks from a chunk's activation until the next one should take over.
  ChunkScheduler(std::size_t action_dim, int execution_horizon) noexcept
      : action_dim_(action_dim), execution_horizon_(execution_horizon) {}

  // Asks for the next chunk `lead` ticks before it should take over; clamped to
  // 0..execution_horizon.
  void set_lead(std::int64_t lead) noexcept;

  // Makes `chunk` the running chunk from `tick` on, and swaps the previous chunk's memory into it.
  void activate(Chunk& chunk, std::int64_t tick) noexcept;

  [[nodiscard]] bool has_chunk() const noexcept { return has_chunk_; }
  [[nodiscard]] const Chunk& chunk() const noexcept { return chunk_; }
  // Rows of the running chunk, H.
  [[nodiscard]] std::int64_t num_rows() const noexcept;
  // Whether the next chunk must be requested before `tick` is executed.
  [[nodiscard]] bool wants_chunk(std::int64_t tick) const noexcept;
  // The action (A) for `tick`; empty if there is no chunk or it is exhausted.
  [[nodiscard]] std::span<const float> action(std::int64_t tick) const noexcept;
  // The rows that follow the action for `tick`, (rows, A); empty if there is no such action.
  [[nodiscard]] std::span<const float> preview(std::int64_t tick) const noexcept;

 private:
  std::size_t action_dim_;
  std::int64_t execution_horizon_;
  std::int64_t lead_ = 0;
  bool has_chunk_ = false;
  std::int64_t activated_tick_ = 0;
  Chunk chunk_;
};

}  // namespace flux
