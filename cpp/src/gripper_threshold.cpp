#include "flux/gripper_threshold.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "flux/tensor.hpp"

namespace flux {
namespace {

constexpr std::size_t kLookRows = 3;

void require_joints(const char* name, const std::vector<double>& values, std::size_t action_dim) {
  if (values.size() == action_dim) return;
  throw std::invalid_argument(expected_got(name, std::to_string(action_dim) + " values, or none",
                                           std::to_string(values.size())));
}

bool has_thresholds(const GripperThresholds& thresholds) {
  return std::ranges::any_of(thresholds.closes_below, [](double v) { return !std::isnan(v); });
}

}  // namespace

void check(const GripperThresholds& thresholds, std::size_t action_dim) {
  if (thresholds.closes_below.empty() && thresholds.closed_command.empty()) return;
  require_joints("closes_below", thresholds.closes_below, action_dim);
  require_joints("closed_command", thresholds.closed_command, action_dim);
  for (std::size_t i = 0; i < action_dim; ++i) {
    const bool is_used = !std::isnan(thresholds.closes_below[i]);
    if (!is_used || std::isfinite(thresholds.closed_command[i])) continue;
    throw std::invalid_argument(expected_got("closed_command[" + std::to_string(i) + "]",
                                             "a finite number",
                                             std::to_string(thresholds.closed_command[i])));
  }
}

GripperThreshold::GripperThreshold(const GripperThresholds& thresholds, std::size_t action_dim,
                                   std::span<const std::uint8_t> binary_mask) {
  if (!has_thresholds(thresholds)) return;
  for (std::size_t i = 0; i < action_dim; ++i) {
    const bool is_binary = !binary_mask.empty() && binary_mask[i] != 0;
    if (is_binary && !std::isnan(thresholds.closes_below[i])) {
      throw std::invalid_argument(expected_got("closes_below[" + std::to_string(i) + "]",
                                               "none, as the action is binary",
                                               std::to_string(thresholds.closes_below[i])));
    }
    joints_.push_back({.closes_below = thresholds.closes_below[i],
                       .closed_command = static_cast<float>(thresholds.closed_command[i])});
  }
  look_.resize(kLookRows * action_dim);
}

ChunkPlayer::Look GripperThreshold::applied(const ChunkPlayer::Look& look) noexcept {
  if (joints_.empty()) return look;
  const std::size_t dim = joints_.size();
  for (std::size_t i = 0; i < dim; ++i) look_[i] = applied(i, look.action[i]);
  for (std::size_t i = 0; i < look.preview.size(); ++i) {
    look_[dim + i] = applied(i % dim, look.preview[i]);
  }
  const std::span<const float> rows(look_);
  return {.action = rows.first(dim), .preview = rows.subspan(dim, look.preview.size())};
}

}  // namespace flux
