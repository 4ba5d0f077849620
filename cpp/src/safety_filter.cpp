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

}  // namespace

SafetyLimits::SafetyLimits(std::span<const double> lower, std::span<const double> upper,
                           std::span<const double> max_velocity)
    : max_velocity_(max_velocity.begin(), max_velocity.end()) {
  if (lower.empty() || upper.size() != lower.size() || max_velocity.size() != lower.size()) {
    throw std::invalid_argument(
        expected_got("SafetyLimits", "lower, upper and max_velocity of one length above 0",
                     std::to_string(lower.size()) + ", " + std::to_string(upper.size()) + " and " +
                         std::to_string(max_velocity.size())));
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
    if (!std::isfinite(max_velocity[i]) || !(max_velocity[i] > 0.0)) {
      throw std::invalid_argument(expected_got(joint_name("max_velocity", i),
                                               "a finite number above 0",
                                               std::to_string(max_velocity[i])));
    }
  }
}

SafetyFilter::SafetyFilter(SafetyLimits limits, double control_hz)
    : limits_(std::move(limits)), command_(limits_.action_dim(), 0.0F) {
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
}

float SafetyFilter::limit_change(std::size_t joint, float target) const noexcept {
  const auto last = static_cast<double>(command_[joint]);
  const float lowest = round_up(last - max_change_[joint]);
  const float highest = round_down(last + max_change_[joint]);
  return std::clamp(target, lowest, highest);
}

std::uint32_t SafetyFilter::apply(std::span<const float> action) noexcept {
  for (const float value : action) {
    if (!std::isfinite(value)) {
      hold();
      return kNonFinite | kHeld;
    }
  }
  std::uint32_t flags = 0;
  for (std::size_t i = 0; i < command_.size(); ++i) {
    const float inside = std::clamp(action[i], limits_.lower()[i], limits_.upper()[i]);
    const double excess = std::abs(static_cast<double>(action[i]) - static_cast<double>(inside));
    if (excess > kTolerance) flags |= kClippedPosition;
    const double change = std::abs(static_cast<double>(inside) - static_cast<double>(command_[i]));
    if (change > max_change_[i] + kTolerance) flags |= kClippedVelocity;
    command_[i] = limit_change(i, inside);
  }
  return flags;
}

void SafetyFilter::hold() noexcept {
  for (std::size_t i = 0; i < command_.size(); ++i) {
    command_[i] = limit_change(i, std::clamp(command_[i], limits_.lower()[i], limits_.upper()[i]));
  }
}

}  // namespace flux
