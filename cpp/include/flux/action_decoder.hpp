// Converts the network's normalised actions to robot units, and back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace flux {

// action = normalised * scale + offset + relative_mask * observed state, per dimension, in float32
// and in this order, so that numpy gives the same bits. A binary action is 1 where normalised is
// above 0.5, else 0.
class ActionDecoder {
 public:
  static constexpr float kThreshold = 0.5F;

  // All arguments have length A, the robot's action_dim; an empty binary_mask says that no action
  // is binary. Throws std::invalid_argument if the lengths differ, if a scale or offset is not
  // finite, or if a binary action is relative.
  ActionDecoder(std::span<const float> scale, std::span<const float> offset,
                std::span<const std::uint8_t> relative_mask,
                std::span<const std::uint8_t> binary_mask = {});

  [[nodiscard]] std::size_t action_dim() const noexcept { return scale_.size(); }
  // (A), 1 where an action is binary.
  [[nodiscard]] std::span<const std::uint8_t> binary_mask() const noexcept { return binary_mask_; }

  // Args:
  //   normalised: (H, network_dim) with network_dim >= A; extra columns are padding.
  //   state: (A), the observed state in robot units.
  //   actions: (H, A), written.
  void decode(std::span<const float> normalised, std::size_t network_dim,
              std::span<const float> state, std::span<float> actions) const noexcept;

  // The inverse of decode, for actions that are already known: where they are relative, they become
  // relative to `state`. Padding, and a dimension whose scale is 0, become 0.
  //
  // Args:
  //   actions: (rows, A), in robot units.
  //   normalised: (rows, network_dim) with network_dim >= A, written.
  void encode(std::span<const float> actions, std::size_t network_dim, std::span<const float> state,
              std::span<float> normalised) const noexcept;

 private:
  std::vector<float> scale_;
  std::vector<float> offset_;
  std::vector<std::uint8_t> relative_mask_;
  std::vector<std::uint8_t> binary_mask_;
};

}  // namespace flux
