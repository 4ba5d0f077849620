// Closes grippers fully whose command falls below a threshold, between the chunk player and the
// safety filter. The rows of chunks stay as they are, so that the next chunk continues what the
// policy has predicted.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "flux/chunk_player.hpp"

namespace flux {

// Per joint, (A), or empty: a command below `closes_below` becomes `closed_command`. NaN in the
// first means none.
struct GripperThresholds {
  std::vector<double> closes_below = {};
  std::vector<double> closed_command = {};
};

// Throws std::invalid_argument, naming the value, unless both are empty or have `action_dim` values
// and every threshold has a finite closed command.
void check(const GripperThresholds& thresholds, std::size_t action_dim);

class GripperThreshold {
 public:
  // Args:
  //   thresholds: checked ones.
  //   binary_mask: (A), 1 where an action is binary; empty if none is. Throws
  //     std::invalid_argument if one of these has a threshold.
  GripperThreshold(const GripperThresholds& thresholds, std::size_t action_dim,
                   std::span<const std::uint8_t> binary_mask = {});

  [[nodiscard]] bool has_threshold(std::size_t joint) const noexcept {
    return !joints_.empty() && !std::isnan(joints_[joint].closes_below);
  }
  // What one joint's command becomes.
  [[nodiscard]] float applied(std::size_t joint, float value) const noexcept {
    if (joints_.empty()) return value;
    const Joint& at = joints_[joint];
    return static_cast<double>(value) < at.closes_below ? at.closed_command : value;
  }
  // What a tick executes, with the thresholds applied; valid until the next call.
  [[nodiscard]] ChunkPlayer::Look applied(const ChunkPlayer::Look& look) noexcept;

 private:
  struct Joint {
    double closes_below;
    float closed_command;
  };

  std::vector<Joint> joints_;  // (A), or empty without thresholds
  std::vector<float> look_;    // (3, A)
};

}  // namespace flux
