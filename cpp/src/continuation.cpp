#include "flux/continuation.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "flux/tensor.hpp"

namespace flux {
namespace {

void require_length(const char* name, int length, int action_horizon) {
  if (length >= -1 && length <= action_horizon) return;
  throw std::invalid_argument(expected_got(
      name, "0 to action_horizon " + std::to_string(action_horizon) + ", or -1 for the default",
      std::to_string(length)));
}

// d <= s <= H - d.
bool fits(int delay, int execution_horizon, int action_horizon) noexcept {
  return delay <= execution_horizon && execution_horizon <= action_horizon - delay;
}

}  // namespace

void check(const ContinuationSettings& settings, int action_horizon) {
  require_length("prefix_len", settings.prefix_len, action_horizon);
  require_length("decay_end", settings.decay_end, action_horizon);
  if (settings.decay_end >= 0 && settings.decay_end < settings.prefix_len) {
    throw std::invalid_argument(
        expected_got("decay_end", "at least prefix_len " + std::to_string(settings.prefix_len),
                     std::to_string(settings.decay_end)));
  }
  if (!(settings.max_guidance_weight > 0.0) || !std::isfinite(settings.max_guidance_weight)) {
    throw std::invalid_argument(expected_got("max_guidance_weight", "a finite number above 0",
                                             std::to_string(settings.max_guidance_weight)));
  }
  int last = -1;
  for (const int delay : settings.delays) {
    if (delay <= last || delay > action_horizon) {
      throw std::invalid_argument(expected_got(
          "delays", "ascending numbers from 0 to action_horizon " + std::to_string(action_horizon),
          std::to_string(delay) + " after " + std::to_string(last)));
    }
    last = delay;
  }
  if (settings.delays.empty()) {
    throw std::invalid_argument(expected_got("delays", "at least one", "none"));
  }
  if (settings.prefix_len >= 0 && !takes(settings, settings.prefix_len)) {
    throw std::invalid_argument(expected_got(
        "prefix_len", "a delay that the policy was trained with (" + delays_text(settings) + ")",
        std::to_string(settings.prefix_len)));
  }
}

bool takes(const ContinuationSettings& settings, int delay) noexcept {
  return settings.method == ContinuationMethod::kGuidance ||
         std::ranges::binary_search(settings.delays, delay);
}

std::string delays_text(const ContinuationSettings& settings) {
  std::string text;
  for (const int delay : settings.delays) {
    if (!text.empty()) text += ", ";
    text += std::to_string(delay);
  }
  return text;
}

int usable_delay(const ContinuationSettings& settings, int rows, int execution_horizon,
                 int action_horizon) noexcept {
  const auto or_none = [=](int delay) {
    return delay >= rows && fits(delay, execution_horizon, action_horizon) ? delay : -1;
  };
  if (settings.prefix_len >= 0) return or_none(settings.prefix_len);
  if (settings.method == ContinuationMethod::kGuidance) return or_none(std::max(rows, 0));
  const auto found = std::ranges::lower_bound(settings.delays, rows);
  return found == settings.delays.end() ? -1 : or_none(*found);
}

int largest_usable_delay(const ContinuationSettings& settings, int execution_horizon,
                         int action_horizon) noexcept {
  const int most = std::min(execution_horizon, action_horizon - execution_horizon);
  if (most < 0) return -1;
  if (settings.prefix_len >= 0) return settings.prefix_len <= most ? settings.prefix_len : -1;
  if (settings.method == ContinuationMethod::kGuidance) return most;
  const auto above = std::ranges::upper_bound(settings.delays, most);
  return above == settings.delays.begin() ? -1 : *(above - 1);
}

}  // namespace flux
