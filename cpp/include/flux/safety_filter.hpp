// The last stage between a policy and a robot: keeps every command within the limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace flux {

// Bits of a tick's status: why the command is not exactly the policy's next action, and whether a
// chunk starts.
enum TickFlag : std::uint32_t {
  kHeld = 1U << 0,             // no usable action: the last command is repeated
  kClippedPosition = 1U << 1,  // the action was outside the position limits
  kClippedVelocity = 1U << 2,  // the action was farther away than a joint may move in one tick
  kNonFinite = 1U << 3,        // the action contained a NaN or an infinity
  kStale = 1U << 4,            // the observation behind the chunk is too old
  kNewChunk = 1U << 5,         // the first tick of a chunk
};

// Per joint, in joint units and joint units per second.
class SafetyLimits {
 public:
  // All of length A. Throws std::invalid_argument unless the lengths agree, all numbers are
  // finite, lower < upper and max_velocity > 0.
  SafetyLimits(std::span<const double> lower, std::span<const double> upper,
               std::span<const double> max_velocity);

  [[nodiscard]] std::size_t action_dim() const noexcept { return lower_.size(); }
  // The limits, rounded inwards to float32.
  [[nodiscard]] std::span<const float> lower() const noexcept { return lower_; }
  [[nodiscard]] std::span<const float> upper() const noexcept { return upper_; }
  [[nodiscard]] std::span<const double> max_velocity() const noexcept { return max_velocity_; }

 private:
  std::vector<float> lower_;
  std::vector<float> upper_;
  std::vector<double> max_velocity_;
};

// Keeps every command finite, within the position limits and within max_velocity / control_hz of
// the previous command. A robot that starts outside its position limits is moved back at no more
// than max_velocity. Nothing here allocates, locks or throws after construction.
class SafetyFilter {
 public:
  // An excess of up to this much, in joint units, counts as rounding and not as a violation.
  static constexpr double kTolerance = 1e-6;

  SafetyFilter(SafetyLimits limits, double control_hz);

  [[nodiscard]] std::size_t action_dim() const noexcept { return command_.size(); }
  // The last command, (A).
  [[nodiscard]] std::span<const float> command() const noexcept { return command_; }

  // Makes `command`, (A) and finite, the last command.
  void reset(std::span<const float> command) noexcept;
  // Moves the last command to `action`, (A), as far as the limits allow; returns TickFlags.
  [[nodiscard]] std::uint32_t apply(std::span<const float> action) noexcept;
  // Repeats the last command, moved towards the limits if it is outside them.
  void hold() noexcept;

 private:
  [[nodiscard]] float limit_change(std::size_t joint, float target) const noexcept;

  SafetyLimits limits_;
  std::vector<double> max_change_;
  std::vector<float> command_;
};

}  // namespace flux
