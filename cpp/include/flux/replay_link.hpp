// A robot that is only a memory: at each tick it shows what a recorded tick saw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "flux/robot_link.hpp"
#include "flux/tick_record.hpp"

namespace flux {

class ReplayLink final : public RobotLink {
 public:
  ReplayLink(std::size_t action_dim, std::size_t state_dim, std::size_t num_cameras)
      : action_dim_(action_dim), state_(state_dim), frames_(num_cameras) {}

  [[nodiscard]] std::size_t action_dim() const noexcept override { return action_dim_; }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return state_.size(); }
  [[nodiscard]] std::size_t num_cameras() const noexcept override { return frames_.size(); }

  StateSample read_state(std::span<float> state) noexcept override;
  [[nodiscard]] std::int64_t frame_captured_ns(std::size_t camera) const noexcept override {
    return frames_[camera];
  }
  [[nodiscard]] LinkStatus status() const noexcept override { return status_; }
  // Returns when the recorded command left.
  std::int64_t send(std::span<const float> command, const CommandStamp& stamp) noexcept override;
  void beat(std::int64_t now_ns) noexcept override;
  void announce(LinkPhase phase, StopCategory category, std::uint64_t session) noexcept override;

  // What a session began with; `state` has state_dim values.
  void show(const StateSample& sample, std::span<const float> state,
            const LinkStatus& status) noexcept;
  // What a tick saw: a record of this layout.
  void show(const TickLayout& layout, std::span<const std::byte> record) noexcept;

 private:
  std::size_t action_dim_;
  StateSample sample_;
  std::vector<float> state_;
  std::vector<std::int64_t> frames_;
  LinkStatus status_;
  std::int64_t sent_ns_ = 0;
};

}  // namespace flux
