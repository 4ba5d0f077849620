#include "flux/replay_link.hpp"

#include <algorithm>
#include <cstring>

namespace flux {

StateSample ReplayLink::read_state(std::span<float> state) noexcept {
  std::ranges::copy(state_, state.begin());
  return sample_;
}

std::int64_t ReplayLink::send(std::span<const float> /*command*/,
                              const CommandStamp& /*stamp*/) noexcept {
  return sent_ns_;
}

void ReplayLink::beat(std::int64_t /*now_ns*/) noexcept {}

void ReplayLink::announce(LinkPhase /*phase*/, StopCategory /*category*/,
                          std::uint64_t /*session*/) noexcept {}

void ReplayLink::show(const StateSample& sample, std::span<const float> state,
                      const LinkStatus& status) noexcept {
  sample_ = sample;
  std::ranges::copy(state, state_.begin());
  status_ = status;
}

void ReplayLink::show(const TickLayout& layout, std::span<const std::byte> record) noexcept {
  TickHeader header;
  TickInputs inputs;
  std::memcpy(&header, record.data(), sizeof(header));
  std::memcpy(&inputs, record.data() + layout.inputs, sizeof(inputs));
  if (!frames_.empty()) {
    std::memcpy(frames_.data(), record.data() + layout.frames,
                frames_.size() * sizeof(std::int64_t));
  }
  std::memcpy(state_.data(), record.data() + layout.state, state_.size() * sizeof(float));
  sample_ = {.captured_ns = header.state_captured_ns,
             .count = inputs.state_count,
             .speed_scaling = inputs.speed_scaling};
  status_ = {.phase = static_cast<DriverPhase>(inputs.driver_phase),
             .acknowledged = header.acknowledged,
             .session = inputs.driver_session,
             .heartbeat_ns = inputs.heartbeat_ns,
             .dropped_old = inputs.dropped_old,
             .refused_steps = inputs.refused_steps,
             .progress = header.progress,
             .is_alive = inputs.is_driver_alive != 0};
  sent_ns_ = header.sent_ns;
}

}  // namespace flux
