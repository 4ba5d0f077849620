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

// The nearest float32 that is not below (above) a number.
float round_up(double value) noexcept {
  const auto rounded = static_cast<float>(value);
  return static_cast<double>(rounded) < value ? std::nextafter(rounded, kInfinity) : rounded;
}

float round_down(double value) noexcept {
  const auto rounded = static_cast<float>(value);
  return static_cast<double>(rounded) > value ? std::nextafter(rounded, -kInfinity) : rounded;
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

SafetyFilter::SafetyFilter(SafetyLimits limits, double control_hz)
    : limits_(std::move(limits)),
      period_s_(1.0 / control_hz),
      command_(limits_.action_dim(), 0.0F) {
  if (!std::isfinite(control_hz) || !(control_hz > 0.0)) {
    throw std::invalid_argument(
        expected_got("control_hz", "a finite number above 0", std::to_string(control_hz)));
  }
  for (const double velocity : limits_.max_velocity()) {
    max_change_.push_back(velocity / control_hz);
  }
}

void SafetyFilter::reset(std::span<const float> command) noexcept {
  std::ranges::copy(command, command_.begin());
  is_at_rest_ = true;
}

double SafetyFilter::step_s(double dt_s) const noexcept { return std::min(dt_s, period_s_); }

float SafetyFilter::limit_change(std::size_t joint, float target,
                                 double max_change) const noexcept {
  const auto last = static_cast<double>(command_[joint]);
  const float lowest = round_up(last - max_change);
  const float highest = round_down(last + max_change);
  return std::clamp(target, lowest, highest);
}

void SafetyFilter::move_to(std::size_t joint, float command) noexcept {
  if (command != command_[joint]) is_at_rest_ = false;
  command_[joint] = command;
}

std::uint32_t SafetyFilter::apply(std::span<const float> action) noexcept {
  return apply(action, {}, period_s_);
}

std::uint32_t SafetyFilter::apply(std::span<const float> action, std::span<const float> /*preview*/,
                                  double dt_s) noexcept {
  for (const float value : action) {
    if (!std::isfinite(value)) {
      brake(dt_s);
      return kNonFinite | kHeld;
    }
  }
  is_at_rest_ = true;
  const double dt = step_s(dt_s);
  std::uint32_t flags = 0;
  for (std::size_t i = 0; i < command_.size(); ++i) {
    // max_change_ is what a nominal period allows; v * period may round otherwise.
    const double max_change = dt < period_s_ ? limits_.max_velocity()[i] * dt : max_change_[i];
    const float inside = std::clamp(action[i], limits_.lower()[i], limits_.upper()[i]);
    const double excess = std::abs(static_cast<double>(action[i]) - static_cast<double>(inside));
    if (excess > kTolerance) flags |= kClippedPosition;
    const double change = std::abs(static_cast<double>(inside) - static_cast<double>(command_[i]));
    if (change > max_change + kTolerance) flags |= kClippedVelocity;
    move_to(i, limit_change(i, inside, max_change));
  }
  return flags;
}

void SafetyFilter::brake(double /*dt_s*/) noexcept { is_at_rest_ = true; }

void SafetyFilter::hold() noexcept { brake(period_s_); }

bool SafetyFilter::is_at_rest() const noexcept { return is_at_rest_; }

double SafetyFilter::rest_time_bound_s(double max_dt_s) const noexcept { return max_dt_s; }

double SafetyFilter::rest_time_bound_s() const noexcept { return rest_time_bound_s(period_s_); }

bool SafetyFilter::is_within_limits() const noexcept {
  for (std::size_t i = 0; i < command_.size(); ++i) {
    if (command_[i] < limits_.lower()[i] || command_[i] > limits_.upper()[i]) return false;
  }
  return true;
}

void SafetyFilter::return_to_limits(double dt_s) noexcept {
  is_at_rest_ = true;
  for (std::size_t i = 0; i < command_.size(); ++i) {
    const double max_change = kReturnSpeed * limits_.max_velocity()[i] * step_s(dt_s);
    const float inside = std::clamp(command_[i], limits_.lower()[i], limits_.upper()[i]);
    move_to(i, limit_change(i, inside, max_change));
  }
}

}  // namespace flux
