#include "flux/loopback_link.hpp"

namespace flux {

LoopbackLink::LoopbackLink(std::size_t action_dim, std::span<const float> state,
                           std::size_t num_cameras)
    : action_dim_(action_dim), num_cameras_(num_cameras), state_(state.size()) {
  set_state(state);
}

std::int64_t LoopbackLink::captured_ns() const noexcept {
  const std::int64_t frozen_ns = frozen_ns_.load();
  return frozen_ns != 0 ? frozen_ns : clock_.now_ns();
}

StateSample LoopbackLink::read_state(std::span<float> state) noexcept {
  for (std::size_t i = 0; i < state_.size(); ++i) {
    state[i] = state_[i].load(std::memory_order_relaxed);
  }
  return {.captured_ns = captured_ns(), .count = num_commands_.load() + 1};
}

std::int64_t LoopbackLink::frame_captured_ns(std::size_t /*camera*/) const noexcept {
  return captured_ns();
}

LinkStatus LoopbackLink::status() const noexcept {
  return {.phase = driver_phase_.load(),
          .acknowledged = acknowledged_.load(),
          .session = session_.load(),
          .heartbeat_ns = captured_ns()};
}

std::int64_t LoopbackLink::send(std::span<const float> command,
                                const CommandStamp& stamp) noexcept {
  if (state_.size() == command.size()) set_state(command);
  acknowledged_.store(stamp.sequence);
  num_commands_.fetch_add(1);
  return clock_.now_ns();
}

void LoopbackLink::beat(std::int64_t /*now_ns*/) noexcept {}

void LoopbackLink::announce(LinkPhase phase, StopCategory category,
                            std::uint64_t session) noexcept {
  phase_.store(phase);
  category_.store(category);
  if (session != session_.exchange(session)) acknowledged_.store(0);
}

void LoopbackLink::set_state(std::span<const float> state) noexcept {
  for (std::size_t i = 0; i < state_.size(); ++i) {
    state_[i].store(state[i], std::memory_order_relaxed);
  }
}

}  // namespace flux
