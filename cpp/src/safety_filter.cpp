#include "flux/safety_filter.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "flux/tensor.hpp"

namespace flux {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// The nearest float32 that is not below (above) a number.
float round_up(double value) noexcept {
  const auto rounded = static_cast<float>(value);
  return static_cast<double>(rounded) < value ? std::nextafter(rounded, kInfinity) : rounded;
}

float round_down(double value) noexcept {
  const auto rounded = static_cast<float>(value);
  return static_cast<double>(rounded) > value ? std::nextafter(rounded, -kInfinity) : rounded;
}

// What remains of the changes by max_jerk in a period when a joint counts as standing.
constexpr double kRestJerk = 1e-9;
// Rows that were within the limits for so many ticks are joined; others are only approached, with
// this share of max_jerk, so that the motion does not amplify them.
constexpr int kSmoothRows = 3;
constexpr double kGentleJerk = 0.25;

bool is_still(const MotionState& state) noexcept {
  return state.velocity == 0.0 && state.acceleration == 0.0;
}

bool is_finite(std::span<const float> values) noexcept {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

// The limits that a refused step would have exceeded, as TickFlags.
std::uint32_t exceeded(const MotionState& from, const MotionState& to, double dt_s,
                       const MotionLimits& limits) noexcept {
  std::uint32_t flags = 0;
  const double jerk = (to.acceleration - from.acceleration) / dt_s;
  if (std::abs(to.velocity) > limits.max_velocity) flags |= kClippedVelocity;
  if (std::abs(to.acceleration) > limits.max_acceleration) flags |= kClippedAcceleration;
  if (std::abs(jerk) > limits.max_jerk) flags |= kClippedJerk;
  if (flags != 0) return flags;
  // The step itself was possible. What was not possible is to stop inside the position limits, or
  // to follow the next rows as well.
  return is_viable(to, limits) ? kClippedJerk : kClippedPosition;
}

std::string joint_name(const char* name, std::size_t joint) {
  return std::string(name) + "[" + std::to_string(joint) + "]";
}

void require_above_zero(const char* name, std::size_t joint, double value) {
  // Written so that a NaN fails.
  if (std::isfinite(value) && value > 0.0) return;
  throw std::invalid_argument(
      expected_got(joint_name(name, joint), "a finite number above 0", std::to_string(value)));
}

}  // namespace

SafetyLimits::SafetyLimits(std::span<const double> lower, std::span<const double> upper,
                           std::span<const double> max_velocity,
                           std::span<const double> max_acceleration,
                           std::span<const double> max_jerk)
    : max_velocity_(max_velocity.begin(), max_velocity.end()),
      max_acceleration_(max_acceleration.begin(), max_acceleration.end()),
      max_jerk_(max_jerk.begin(), max_jerk.end()) {
  if (lower.empty() || upper.size() != lower.size() || max_velocity.size() != lower.size()) {
    throw std::invalid_argument(
        expected_got("SafetyLimits", "lower, upper and max_velocity of one length above 0",
                     std::to_string(lower.size()) + ", " + std::to_string(upper.size()) + " and " +
                         std::to_string(max_velocity.size())));
  }
  if (max_acceleration.size() != max_jerk.size() ||
      (has_acceleration() && max_acceleration.size() != lower.size())) {
    throw std::invalid_argument(expected_got(
        "SafetyLimits",
        "max_acceleration and max_jerk both empty or both of length " +
            std::to_string(lower.size()),
        std::to_string(max_acceleration.size()) + " and " + std::to_string(max_jerk.size())));
  }
  for (std::size_t i = 0; i < lower.size(); ++i) {
    lower_.push_back(round_up(lower[i]));
    upper_.push_back(round_down(upper[i]));
    // Written so that a NaN fails.
    if (!std::isfinite(lower_[i]) || !std::isfinite(upper_[i]) || !(lower_[i] < upper_[i])) {
      throw std::invalid_argument(
          expected_got(joint_name("lower", i), "a finite number below upper",
                       std::to_string(lower[i]) + " and upper " + std::to_string(upper[i])));
    }
    require_above_zero("max_velocity", i, max_velocity[i]);
    if (!has_acceleration()) continue;
    require_above_zero("max_acceleration", i, max_acceleration[i]);
    require_above_zero("max_jerk", i, max_jerk[i]);
  }
}

SafetyFilter::SafetyFilter(SafetyLimits limits, double control_hz,
                           std::span<const std::uint8_t> binary_mask)
    : limits_(std::move(limits)),
      period_s_(1.0 / control_hz),
      command_(limits_.action_dim(), 0.0F),
      binary_mask_(binary_mask.begin(), binary_mask.end()) {
  if (!std::isfinite(control_hz) || !(control_hz > 0.0)) {
    throw std::invalid_argument(
        expected_got("control_hz", "a finite number above 0", std::to_string(control_hz)));
  }
  for (const double velocity : limits_.max_velocity()) {
    max_change_.push_back(velocity / control_hz);
  }
  binary_mask_.resize(limits_.action_dim());
  for (std::size_t i = 0; i < binary_mask_.size(); ++i) {
    if (binary_mask_[i] == 0 || (limits_.lower()[i] <= 0.0F && limits_.upper()[i] >= 1.0F))
      continue;
    throw std::invalid_argument(expected_got(
        joint_name("limits", i), "0 and 1 within them, as the action is binary",
        std::to_string(limits_.lower()[i]) + " to " + std::to_string(limits_.upper()[i])));
  }
  if (limits_.has_acceleration()) joints_.resize(limits_.action_dim());
  reset(std::vector<float>(limits_.action_dim(), 0.0F));
}

void SafetyFilter::reset(std::span<const float> command) noexcept {
  std::ranges::copy(command, command_.begin());
  restart(command);
}

void SafetyFilter::restart(std::span<const float> command) noexcept {
  for (std::size_t i = 0; i < command_.size(); ++i) {
    if (binary_mask_[i] == 0) command_[i] = command[i];
  }
  has_moved_ = false;
  for (std::size_t i = 0; i < joints_.size(); ++i) reset_joint(i);
}

void SafetyFilter::reset_joint(std::size_t joint) noexcept {
  const auto position = static_cast<double>(command_[joint]);
  Joint& placed = joints_[joint];
  // A start outside the position limits is one of the limits until the joint rests inside them.
  placed.limits = {.lower = std::min(static_cast<double>(limits_.lower()[joint]), position),
                   .upper = std::max(static_cast<double>(limits_.upper()[joint]), position),
                   .max_velocity = limits_.max_velocity()[joint],
                   .max_acceleration = limits_.max_acceleration()[joint],
                   .max_jerk = limits_.max_jerk()[joint]};
  placed.state = {.position = position};
  placed.is_on_track = true;
  placed.last_row = kNaN;
  placed.num_smooth = kSmoothRows;
}

double SafetyFilter::step_s(double dt_s) const noexcept { return std::min(dt_s, period_s_); }

std::uint32_t SafetyFilter::apply(std::span<const float> action) noexcept {
  return apply(action, {}, period_s_);
}

std::uint32_t SafetyFilter::apply(std::span<const float> action, std::span<const float> preview,
                                  double dt_s) noexcept {
  if (!is_finite(action)) {
    brake(dt_s);
    return kNonFinite | kHeld;
  }
  has_moved_ = false;
  if (joints_.empty()) return follow_freely(action, step_s(dt_s));
  std::uint32_t flags = 0;
  for (std::size_t i = 0; i < joints_.size(); ++i) {
    if (binary_mask_[i] != 0) {
      flags |= switch_to(i, action[i]);
      continue;
    }
    const Rows rows = rows_of(i, action, preview);
    judge_rows(joints_[i], rows);
    const double excess =
        std::abs(static_cast<double>(action[i]) - static_cast<double>(rows.action));
    if (excess > kTolerance) flags |= kClippedPosition;
    flags |= follow(i, rows, step_s(dt_s), joints_[i].limits);
  }
  return flags;
}

std::uint32_t SafetyFilter::switch_to(std::size_t joint, float action) noexcept {
  const float inside = std::clamp(action, limits_.lower()[joint], limits_.upper()[joint]);
  send(joint, inside);
  if (!joints_.empty()) reset_joint(joint);
  const double excess = std::abs(static_cast<double>(action) - static_cast<double>(inside));
  return excess > kTolerance ? static_cast<std::uint32_t>(kClippedPosition) : 0U;
}

std::uint32_t SafetyFilter::follow_freely(std::span<const float> action, double dt_s) noexcept {
  std::uint32_t flags = 0;
  for (std::size_t i = 0; i < command_.size(); ++i) {
    if (binary_mask_[i] != 0) {
      flags |= switch_to(i, action[i]);
      continue;
    }
    // max_change_ is what a nominal period allows; velocity * period_s_ may be rounded otherwise.
    const double max_change = dt_s < period_s_ ? limits_.max_velocity()[i] * dt_s : max_change_[i];
    const float inside = std::clamp(action[i], limits_.lower()[i], limits_.upper()[i]);
    const double excess = std::abs(static_cast<double>(action[i]) - static_cast<double>(inside));
    if (excess > kTolerance) flags |= kClippedPosition;
    const double change = std::abs(static_cast<double>(inside) - static_cast<double>(command_[i]));
    if (change > max_change + kTolerance) flags |= kClippedVelocity;
    send(i, limit_change(i, inside, max_change));
  }
  return flags;
}

float SafetyFilter::limit_change(std::size_t joint, float target,
                                 double max_change) const noexcept {
  const auto last = static_cast<double>(command_[joint]);
  const float lowest = round_up(last - max_change);
  const float highest = round_down(last + max_change);
  return std::clamp(target, lowest, highest);
}

SafetyFilter::Rows SafetyFilter::rows_of(std::size_t joint, std::span<const float> action,
                                         std::span<const float> preview) const noexcept {
  const auto inside = [&](float value) {
    return std::clamp(value, limits_.lower()[joint], limits_.upper()[joint]);
  };
  const std::size_t dim = action_dim();
  Rows rows{.action = inside(action[joint])};
  rows.next = rows.after_next = static_cast<double>(rows.action);
  if (preview.size() < dim || !std::isfinite(preview[joint])) return rows;
  rows.next = rows.after_next = static_cast<double>(inside(preview[joint]));
  if (preview.size() < 2 * dim || !std::isfinite(preview[dim + joint])) return rows;
  rows.after_next = static_cast<double>(inside(preview[dim + joint]));
  return rows;
}

void SafetyFilter::judge_rows(Joint& joint, const Rows& rows) const noexcept {
  const auto action = static_cast<double>(rows.action);
  const MotionLimits& limits = joint.limits;
  const double velocity = (rows.next - action) / period_s_;
  const double next_velocity = (rows.after_next - rows.next) / period_s_;
  const double acceleration = (next_velocity - velocity) / period_s_;
  bool is_smooth = std::abs(velocity) <= limits.max_velocity &&
                   std::abs(acceleration) <= limits.max_acceleration;
  if (std::isnan(joint.last_row)) {
    joint.num_smooth = kSmoothRows;
  } else {
    const double last_velocity = (action - joint.last_row) / period_s_;
    const double last_acceleration = (velocity - last_velocity) / period_s_;
    const double jerk = (acceleration - last_acceleration) / period_s_;
    is_smooth = is_smooth && std::abs(jerk) <= limits.max_jerk;
  }
  joint.num_smooth = is_smooth ? std::min(joint.num_smooth + 1, kSmoothRows) : 0;
  joint.last_row = action;
}

bool SafetyFilter::can_join(const Joint& joint, const Rows& rows, double dt_s,
                            const MotionLimits& limits) const noexcept {
  const auto action = static_cast<double>(rows.action);
  if (!can_step_to(joint.state, action, dt_s, limits)) return false;
  if (joint.is_on_track) return true;
  if (joint.num_smooth < kSmoothRows) return false;
  const MotionState first = step_to(joint.state, action, dt_s);
  if (!can_step_to(first, rows.next, period_s_, limits)) return false;
  const MotionState second = step_to(first, rows.next, period_s_);
  return can_step_to(second, rows.after_next, period_s_, limits);
}

MotionState SafetyFilter::target_of(const Joint& joint, const Rows& rows) const noexcept {
  const auto action = static_cast<double>(rows.action);
  const double velocity = (rows.next - action) / period_s_;
  const double next_velocity = (rows.after_next - rows.next) / period_s_;
  const auto is_possible = [&](double value) {
    return std::abs(value) <= joint.limits.max_velocity;
  };
  if (joint.num_smooth < kSmoothRows) {
    // Rows that nothing within the limits can follow, such as noise: a line through their mean.
    const double mean_velocity = 0.5 * (velocity + next_velocity);
    const double mean = 0.25 * (action + 2.0 * rows.next + rows.after_next);
    if (!is_possible(mean_velocity)) return {.position = mean};
    return {.position = mean - mean_velocity * period_s_, .velocity = mean_velocity};
  }
  const double acceleration = (next_velocity - velocity) / period_s_;
  // Of the step that ends at the action; `velocity` is that of the step after it.
  const double arrival = velocity - acceleration * period_s_;
  if (!is_possible(arrival)) return {.position = action, .acceleration = acceleration};
  return {.position = action, .velocity = arrival, .acceleration = acceleration};
}

std::uint32_t SafetyFilter::follow(std::size_t joint, const Rows& rows, double dt_s,
                                   const MotionLimits& limits) noexcept {
  Joint& moved = joints_[joint];
  const MotionState before = moved.state;
  const MotionState exact = step_to(before, static_cast<double>(rows.action), dt_s);
  moved.is_on_track = can_join(moved, rows, dt_s, limits);
  if (moved.is_on_track) {
    command_state(joint, exact);
    return 0;
  }
  const double jerk_share = moved.num_smooth < kSmoothRows ? kGentleJerk : 1.0;
  command_state(joint, pursuit_step(before, target_of(moved, rows), jerk_share, dt_s, limits));
  moved.is_on_track = command_[joint] == rows.action;
  if (std::abs(exact.position - static_cast<double>(command_[joint])) <= kTolerance) return 0;
  return exceeded(before, exact, dt_s, limits);
}

void SafetyFilter::command_state(std::size_t joint, const MotionState& state) noexcept {
  Joint& moved = joints_[joint];
  const MotionLimits& limits = moved.limits;
  moved.state = state;
  send(joint, static_cast<float>(std::clamp(state.position, limits.lower, limits.upper)));
  if (is_still(state)) leave_start(joint);
}

void SafetyFilter::leave_start(std::size_t joint) noexcept {
  MotionLimits& limits = joints_[joint].limits;
  const float command = command_[joint];
  if (command < limits_.lower()[joint] || command > limits_.upper()[joint]) return;
  limits.lower = static_cast<double>(limits_.lower()[joint]);
  limits.upper = static_cast<double>(limits_.upper()[joint]);
}

void SafetyFilter::send(std::size_t joint, float command) noexcept {
  if (command != command_[joint]) has_moved_ = true;
  command_[joint] = command;
}

void SafetyFilter::brake(double dt_s) noexcept {
  has_moved_ = false;
  for (std::size_t i = 0; i < joints_.size(); ++i) brake_joint(i, step_s(dt_s));
}

void SafetyFilter::hold() noexcept { brake(period_s_); }

void SafetyFilter::brake_joint(std::size_t joint, double dt_s) noexcept {
  Joint& moved = joints_[joint];
  moved.last_row = kNaN;
  if (is_still(moved.state)) return;
  command_state(joint, brake_step(moved.state, dt_s, moved.limits));
  moved.is_on_track = false;
  // Braking approaches rest quadratically. What is left of the motion is lost in float32.
  const double jerk = kRestJerk * moved.limits.max_jerk;
  if (std::abs(moved.state.acceleration) > jerk * period_s_) return;
  if (std::abs(moved.state.velocity) > jerk * period_s_ * period_s_) return;
  moved.state = {.position = static_cast<double>(command_[joint])};
  moved.is_on_track = true;
  leave_start(joint);
}

bool SafetyFilter::is_at_rest() const noexcept {
  if (joints_.empty()) return !has_moved_;
  return std::ranges::all_of(joints_, [](const Joint& joint) { return is_still(joint.state); });
}

double SafetyFilter::rest_time_bound_s(double max_dt_s) const noexcept {
  double longest = 0.0;
  for (const Joint& joint : joints_) {
    longest = std::max(longest, flux::rest_time_bound_s(step_s(max_dt_s), joint.limits));
  }
  return longest;
}

double SafetyFilter::rest_time_bound_s() const noexcept { return rest_time_bound_s(period_s_); }

bool SafetyFilter::is_within_limits() const noexcept {
  for (std::size_t i = 0; i < command_.size(); ++i) {
    if (command_[i] < limits_.lower()[i] || command_[i] > limits_.upper()[i]) return false;
  }
  return true;
}

void SafetyFilter::return_to_limits(double dt_s) noexcept {
  has_moved_ = false;
  for (std::size_t i = 0; i < command_.size(); ++i) {
    const float inside = std::clamp(command_[i], limits_.lower()[i], limits_.upper()[i]);
    const double velocity = kReturnSpeed * limits_.max_velocity()[i];
    if (joints_.empty()) {
      send(i, limit_change(i, inside, velocity * step_s(dt_s)));
    } else if (limits_.lower()[i] < command_[i] && command_[i] < limits_.upper()[i]) {
      brake_joint(i, step_s(dt_s));
    } else {
      MotionLimits limits = joints_[i].limits;
      limits.max_velocity = velocity;
      const auto standing = static_cast<double>(inside);
      (void)follow(i, {inside, standing, standing}, step_s(dt_s), limits);
    }
  }
}

}  // namespace flux
