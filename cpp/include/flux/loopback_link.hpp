// A robot inside this process that follows every command at once: for measurements of the control
// thread itself, and for trying a policy's timing without a robot.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "flux/clock.hpp"
#include "flux/robot_link.hpp"

namespace flux {

class LoopbackLink final : public RobotLink {
 public:
  // The state is that of the last command, if both have the same length, and `state` otherwise.
  LoopbackLink(std::size_t action_dim, std::span<const float> state, std::size_t num_cameras);

  [[nodiscard]] std::size_t action_dim() const noexcept override { return action_dim_; }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return state_.size(); }
  [[nodiscard]] std::size_t num_cameras() const noexcept override { return num_cameras_; }

  StateSample read_state(std::span<float> state) noexcept override;
  [[nodiscard]] std::int64_t frame_captured_ns(std::size_t camera) const noexcept override;
  [[nodiscard]] LinkStatus status() const noexcept override;
  std::int64_t send(std::span<const float> command, const CommandStamp& stamp) noexcept override;
  void beat(std::int64_t now_ns) noexcept override;
  void announce(LinkPhase phase, StopCategory category, std::uint64_t session) noexcept override;

  // Any thread.
  // Moves the robot by hand. Takes exactly state_dim values.
  void set_state(std::span<const float> state) noexcept;
  // From now on, the state, the frames and the driver's signs of life are as old as this time; 0
  // for always new ones.
  void freeze(std::int64_t time_ns) noexcept { frozen_ns_.store(time_ns); }
  void set_driver_phase(DriverPhase phase) noexcept { driver_phase_.store(phase); }
  [[nodiscard]] LinkPhase phase() const noexcept { return phase_.load(); }
  [[nodiscard]] StopCategory category() const noexcept { return category_.load(); }
  [[nodiscard]] std::uint64_t num_commands() const noexcept { return num_commands_.load(); }

 private:
  [[nodiscard]] std::int64_t captured_ns() const noexcept;

  std::size_t action_dim_;
  std::size_t num_cameras_;
  MonotonicClock clock_;
  std::vector<std::atomic<float>> state_;
  std::atomic<std::int64_t> frozen_ns_{0};
  std::atomic<DriverPhase> driver_phase_{DriverPhase::kReady};
  std::atomic<std::uint64_t> acknowledged_{0};
  std::atomic<std::uint64_t> session_{0};
  std::atomic<std::uint64_t> num_commands_{0};
  std::atomic<LinkPhase> phase_{LinkPhase::kIdle};
  std::atomic<StopCategory> category_{StopCategory::kStopKeepPower};
};

}  // namespace flux
