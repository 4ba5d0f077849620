// The last stage between a policy and a robot: keeps every command within the limits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "flux/motion.hpp"

namespace flux {

// Bits of a tick's status: why the command is not exactly the policy's next action, and whether a
// chunk starts.
enum TickFlag : std::uint32_t {
  kHeld = 1U << 0,                 // no usable action: the robot brakes, then the command repeats
  kClippedPosition = 1U << 1,      // the action was outside the position limits, or the robot could
                                   // not have stopped inside them
  kClippedVelocity = 1U << 2,      // the action needed more than max_velocity
  kNonFinite = 1U << 3,            // the action contained a NaN or an infinity
  kStale = 1U << 4,                // the observation behind the chunk is too old
  kNewChunk = 1U << 5,             // the first tick of a chunk
  kClippedAcceleration = 1U << 6,  // the action needed more than max_acceleration
  kClippedJerk = 1U << 7,          // the action needed more than max_jerk
  kGapBefore = 1U << 8,            // starts from the measured state: after a gap or a refused step
  kHolding = 1U << 9,              // held because of a fault that may end
  kStopping = 1U << 10,            // held on the way to a stop or to the end of a session
  kReturning = 1U << 11,           // a step of the slow motion back to the limits
};

// Per joint, in joint units and joint units per second, second squared and second cubed.
class SafetyLimits {
 public:
  // All of length A, except that max_acceleration and max_jerk may both be empty: acceleration and
  // jerk are then unlimited. Throws std::invalid_argument unless the lengths agree, all numbers are
  // finite, lower < upper, and max_velocity, max_acceleration and max_jerk are above 0.
  SafetyLimits(std::span<const double> lower, std::span<const double> upper,
               std::span<const double> max_velocity, std::span<const double> max_acceleration = {},
               std::span<const double> max_jerk = {});

  [[nodiscard]] std::size_t action_dim() const noexcept { return lower_.size(); }
  // The limits, rounded inwards to float32.
  [[nodiscard]] std::span<const float> lower() const noexcept { return lower_; }
  [[nodiscard]] std::span<const float> upper() const noexcept { return upper_; }
  [[nodiscard]] std::span<const double> max_velocity() const noexcept { return max_velocity_; }
  // (A), or empty if unlimited.
  [[nodiscard]] std::span<const double> max_acceleration() const noexcept {
    return max_acceleration_;
  }
  [[nodiscard]] std::span<const double> max_jerk() const noexcept { return max_jerk_; }
  [[nodiscard]] bool has_acceleration() const noexcept { return !max_acceleration_.empty(); }

 private:
  std::vector<float> lower_;
  std::vector<float> upper_;
  std::vector<double> max_velocity_;
  std::vector<double> max_acceleration_;
  std::vector<double> max_jerk_;
};

// Keeps every command finite and within the limits of position, velocity, acceleration and jerk.
// Nothing here allocates, locks or throws after construction.
//
// With p the last command, v its velocity and a its acceleration (both 0 after a reset), a command
// p' that is sent dt later has v' = (p' - p) / dt, a' = (v' - v) / dt and j' = (a' - a) / dt, where
// dt is the time since the last command, but at most one nominal period. A command is admissible if
// these are within the limits and the robot can still brake inside them, whatever the spacing of
// the coming ticks is. An action that is admissible and follows an action that was sent exactly is
// sent exactly, to the last bit. From elsewhere the commands approach the actions within the
// limits; actions that nothing within the limits can follow, such as noise, gently.
//
// Without limits of acceleration and jerk, every command is within max_velocity * dt of the last
// one, and braking repeats the last command at once.
//
// A binary action is no motion: it is sent as it is, within the position limits alone, in the tick
// that asks for it.
class SafetyFilter {
 public:
  // An excess of up to this much, in joint units, counts as rounding and not as a violation.
  static constexpr double kTolerance = 1e-6;
  // return_to_limits() moves at this share of max_velocity.
  static constexpr double kReturnSpeed = 0.1;

  // Args:
  //   binary_mask: (A), 1 where an action is binary; empty if none is. Throws
  //     std::invalid_argument unless the position limits there include 0 and 1.
  SafetyFilter(SafetyLimits limits, double control_hz,
               std::span<const std::uint8_t> binary_mask = {});

  [[nodiscard]] std::size_t action_dim() const noexcept { return command_.size(); }
  // The nominal period.
  [[nodiscard]] double period_s() const noexcept { return period_s_; }
  [[nodiscard]] const SafetyLimits& limits() const noexcept { return limits_; }
  // The last command, (A).
  [[nodiscard]] std::span<const float> command() const noexcept { return command_; }

  // Makes `command`, (A) and finite, the last command of a robot at rest. It may lie outside the
  // position limits; the robot is then never moved farther out, and not back unless an action or
  // return_to_limits() asks for it.
  void reset(std::span<const float> command) noexcept;
  // Like reset(), in the middle of a session: a binary action stays what it is.
  void restart(std::span<const float> command) noexcept;

  // Moves the last command to `action`, (A), as far as the limits allow; returns TickFlags. An
  // action that is not finite brakes.
  //
  // Args:
  //   preview: the rows that follow `action`, (rows, A). The first two are used; without them, the
  //     last known row is expected to repeat.
  //   dt_s: the time since the last command; above 0. More than a nominal period counts as one.
  [[nodiscard]] std::uint32_t apply(std::span<const float> action, std::span<const float> preview,
                                    double dt_s) noexcept;
  // Without preview, one nominal period after the last command.
  [[nodiscard]] std::uint32_t apply(std::span<const float> action) noexcept;

  // One step towards rest as fast as the limits allow; once at rest, repeats the last command.
  void brake(double dt_s) noexcept;
  // Brakes, one nominal period after the last command.
  void hold() noexcept;

  // Whether the last step left the command unchanged, so that braking would repeat it.
  [[nodiscard]] bool is_at_rest() const noexcept;
  // How long braking takes at most from any admissible state until is_at_rest(), if ticks are no
  // more than `max_dt_s` apart.
  [[nodiscard]] double rest_time_bound_s(double max_dt_s) const noexcept;
  [[nodiscard]] double rest_time_bound_s() const noexcept;

  // Whether the last command is within the position limits.
  [[nodiscard]] bool is_within_limits() const noexcept;
  // One step of a slow motion of the joints outside their position limits to those limits; the
  // others brake. Finished when is_within_limits() and is_at_rest().
  void return_to_limits(double dt_s) noexcept;

 private:
  // The rows of one joint from the action on, within its position limits.
  struct Rows {
    float action = 0.0F;
    double next = 0.0;
    double after_next = 0.0;
  };
  struct Joint {
    MotionLimits limits;
    MotionState state;
    // Whether the last command was exactly the row that was asked for.
    bool is_on_track = true;
    // The last row that was asked for; NaN after a reset or a brake.
    double last_row = 0.0;
    // For how many ticks the rows themselves, apart from where the joint is, have been within the
    // limits.
    int num_smooth = 0;
  };

  [[nodiscard]] double step_s(double dt_s) const noexcept;
  void reset_joint(std::size_t joint) noexcept;
  // Sends a binary action; returns TickFlags.
  [[nodiscard]] std::uint32_t switch_to(std::size_t joint, float action) noexcept;
  [[nodiscard]] float limit_change(std::size_t joint, float target,
                                   double max_change) const noexcept;
  [[nodiscard]] std::uint32_t follow_freely(std::span<const float> action, double dt_s) noexcept;
  [[nodiscard]] Rows rows_of(std::size_t joint, std::span<const float> action,
                             std::span<const float> preview) const noexcept;
  void judge_rows(Joint& joint, const Rows& rows) const noexcept;
  [[nodiscard]] bool can_join(const Joint& joint, const Rows& rows, double dt_s,
                              const MotionLimits& limits) const noexcept;
  [[nodiscard]] MotionState target_of(const Joint& joint, const Rows& rows) const noexcept;
  [[nodiscard]] std::uint32_t follow(std::size_t joint, const Rows& rows, double dt_s,
                                     const MotionLimits& limits) noexcept;
  void brake_joint(std::size_t joint, double dt_s) noexcept;
  void command_state(std::size_t joint, const MotionState& state) noexcept;
  void leave_start(std::size_t joint) noexcept;
  void send(std::size_t joint, float command) noexcept;

  SafetyLimits limits_;
  double period_s_;
  std::vector<double> max_change_;
  std::vector<float> command_;
  std::vector<std::uint8_t> binary_mask_;  // (A)
  // Empty without limits of acceleration and jerk.
  std::vector<Joint> joints_;
  bool has_moved_ = false;
};

}  // namespace flux
