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
                             std::span<const std::uint8_t> relative_mask)
    : scale_(scale.begin(), scale.end()),
      offset_(offset.begin(), offset.end()),
      relative_mask_(relative_mask.begin(), relative_mask.end()) {
  if (scale.empty() || offset.size() != scale.size() || relative_mask.size() != scale.size()) {
    throw std::invalid_argument(
        expected_got("ActionDecoder", "scale, offset and relative_mask of one length above 0",
                     std::to_string(scale.size()) + ", " + std::to_string(offset.size()) + " and " +
                         std::to_string(relative_mask.size())));
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
      if (scale_[i] == 0.0F) continue;
      const float reference = relative_mask_[i] != 0 ? state[i] : 0.0F;
      const float scaled = (actions[row * dim + i] - reference) - offset_[i];
      normalised[row * network_dim + i] = scaled / scale_[i];
    }
  }
}

}  // namespace flux
