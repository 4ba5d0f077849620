#include "flux/action_decoder.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "flux/tensor.hpp"

namespace flux {
namespace {

void require_finite(const char* name, std::span<const float> values) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (!std::isfinite(values[i])) {
      throw std::invalid_argument(expected_got(std::string(name) + "[" + std::to_string(i) + "]",
                                               "a finite number", std::to_string(values[i])));
    }
  }
}

}  // namespace

ActionDecoder::ActionDecoder(std::span<const float> scale, std::span<const float> offset,
                             std::span<const std::uint8_t> relative_mask,
                             std::span<const std::uint8_t> binary_mask)
    : scale_(scale.begin(), scale.end()),
      offset_(offset.begin(), offset.end()),
      relative_mask_(relative_mask.begin(), relative_mask.end()),
      binary_mask_(binary_mask.begin(), binary_mask.end()) {
  if (scale.empty() || offset.size() != scale.size() || relative_mask.size() != scale.size()) {
    throw std::invalid_argument(
        expected_got("ActionDecoder", "scale, offset and relative_mask of one length above 0",
                     std::to_string(scale.size()) + ", " + std::to_string(offset.size()) + " and " +
                         std::to_string(relative_mask.size())));
  }
  if (binary_mask_.empty()) binary_mask_.resize(scale.size());
  if (binary_mask_.size() != scale.size()) {
    throw std::invalid_argument(expected_got("binary_mask",
                                             std::to_string(scale.size()) + " values",
                                             std::to_string(binary_mask_.size())));
  }
  for (std::size_t i = 0; i < binary_mask_.size(); ++i) {
    if (binary_mask_[i] != 0 && relative_mask_[i] != 0) {
      throw std::invalid_argument(expected_got("relative_mask[" + std::to_string(i) + "]",
                                               "false, as the action is binary", "true"));
    }
  }
  require_finite("scale", scale);
  require_finite("offset", offset);
}

void ActionDecoder::decode(std::span<const float> normalised, std::size_t network_dim,
                           std::span<const float> state, std::span<float> actions) const noexcept {
  const std::size_t dim = action_dim();
  const std::size_t rows = normalised.size() / network_dim;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < dim; ++i) {
      if (binary_mask_[i] != 0) {
        const float value = normalised[row * network_dim + i];
        // What is not finite is kept, to be found later.
        actions[row * dim + i] =
            std::isfinite(value) ? static_cast<float>(value > kThreshold) : value;
        continue;
      }
      const float scaled = normalised[row * network_dim + i] * scale_[i];
      const float reference = relative_mask_[i] != 0 ? state[i] : 0.0F;
      actions[row * dim + i] = (scaled + offset_[i]) + reference;
    }
  }
}

void ActionDecoder::encode(std::span<const float> actions, std::size_t network_dim,
                           std::span<const float> state,
                           std::span<float> normalised) const noexcept {
  const std::size_t dim = action_dim();
  const std::size_t rows = actions.size() / dim;
  std::ranges::fill(normalised.first(rows * network_dim), 0.0F);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t i = 0; i < dim; ++i) {
      if (binary_mask_[i] != 0) {
        normalised[row * network_dim + i] = actions[row * dim + i];
        continue;
      }
      if (scale_[i] == 0.0F) continue;
      const float reference = relative_mask_[i] != 0 ? state[i] : 0.0F;
      const float scaled = (actions[row * dim + i] - reference) - offset_[i];
      normalised[row * network_dim + i] = scaled / scale_[i];
    }
  }
}

}  // namespace flux
