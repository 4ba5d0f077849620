#include "flux/chunk_scheduler.hpp"

#include <algorithm>
#include <utility>

namespace flux {

void ChunkScheduler::set_lead(std::int64_t lead) noexcept {
  lead_ = std::clamp<std::int64_t>(lead, 0, execution_horizon_);
}

void ChunkScheduler::activate(Chunk& chunk, std::int64_t tick) noexcept {
  std::swap(chunk_, chunk);
  activated_tick_ = tick;
  has_chunk_ = true;
}

std::int64_t ChunkScheduler::num_rows() const noexcept {
  return static_cast<std::int64_t>(chunk_.actions.size() / action_dim_);
}

bool ChunkScheduler::wants_chunk(std::int64_t tick) const noexcept {
  return !has_chunk_ || tick - activated_tick_ >= execution_horizon_ - lead_;
}

std::span<const float> ChunkScheduler::action(std::int64_t tick) const noexcept {
  const std::int64_t row = tick - chunk_.first_tick;
  if (!has_chunk_ || row < 0 || row >= num_rows()) return {};
  return std::span(chunk_.actions)
      .subspan(static_cast<std::size_t>(row) * action_dim_, action_dim_);
}

std::span<const float> ChunkScheduler::preview(std::int64_t tick) const noexcept {
  if (action(tick).empty()) return {};
  const auto row = static_cast<std::size_t>(tick - chunk_.first_tick);
  return std::span(chunk_.actions).subspan((row + 1) * action_dim_);
}

}  // namespace flux
