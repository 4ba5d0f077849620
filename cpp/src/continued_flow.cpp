#include "flux/continued_flow.hpp"

#include <algorithm>
#include <cmath>

namespace flux {
namespace {

double falling_weight(double c, GuidanceSchedule schedule) noexcept {
  switch (schedule) {
    case GuidanceSchedule::kExponential:
      return c * std::expm1(c) / std::expm1(1.0);
    case GuidanceSchedule::kLinear:
      return c;
    case GuidanceSchedule::kOnes:
      return 1.0;
    case GuidanceSchedule::kZeros:
      return 0.0;
  }
  return 0.0;
}

}  // namespace

void prefix_weights(int prefix_len, int decay_end, GuidanceSchedule schedule,
                    std::span<float> weights) noexcept {
  const int end = std::min(std::max(decay_end, prefix_len), static_cast<int>(weights.size()));
  const int start = std::min(prefix_len, end);
  for (int row = 0; row < static_cast<int>(weights.size()); ++row) {
    double weight = row < start ? 1.0 : 0.0;
    if (row >= start && row < end) {
      weight = falling_weight(static_cast<double>(end - row) / (end - start + 1), schedule);
    }
    weights[static_cast<std::size_t>(row)] = static_cast<float>(weight);
  }
}

double guidance_weight(double t, double maximum) noexcept {
  const double tau = 1.0 - t;
  if (tau <= 0.0) return maximum;
  return std::min(t / tau * (tau * tau + t * t) / (t * t), maximum);
}

ContinuedFlow::ContinuedFlow(int action_horizon, int action_dim, int num_inference_steps)
    : action_horizon_(static_cast<std::size_t>(action_horizon)),
      action_dim_(static_cast<std::size_t>(action_dim)),
      num_inference_steps_(static_cast<std::size_t>(num_inference_steps)),
      weights_(action_horizon_),
      x_(action_horizon_ * action_dim_ * sizeof(float)),
      t_(action_horizon_ * sizeof(float)),
      x_next_(x_.num_bytes()),
      t_next_(t_.num_bytes()) {}

bool ContinuedFlow::has_prefix() const noexcept {
  return continuation_.settings->method == ContinuationMethod::kPrefix;
}

// From an integer, so that rounding errors do not add up.
float ContinuedFlow::time(std::size_t step) const noexcept {
  return static_cast<float>(static_cast<double>(num_inference_steps_ - step) /
                            static_cast<double>(num_inference_steps_));
}

void ContinuedFlow::write_prefix() noexcept {
  const std::size_t count = static_cast<std::size_t>(continuation_.prefix_len) * action_dim_;
  std::ranges::copy(continuation_.previous.first(count), x_.floats().begin());
}

void ContinuedFlow::begin(const Continuation& continuation, std::span<const float> noise) noexcept {
  continuation_ = continuation;
  std::ranges::copy(noise, x_.floats().begin());
  if (has_prefix()) {
    write_prefix();
  } else {
    set_weights();
  }
}

void ContinuedFlow::set_weights() noexcept {
  const ContinuationSettings& settings = *continuation_.settings;
  const auto known = static_cast<int>(continuation_.previous.size() / action_dim_);
  const int wanted = settings.decay_end >= 0 ? settings.decay_end : 2 * continuation_.prefix_len;
  prefix_weights(continuation_.prefix_len, std::min(wanted, known), settings.schedule, weights_);
}

void ContinuedFlow::prepare(std::size_t step) noexcept {
  std::ranges::fill(t_.floats(), time(step));
  if (!has_prefix()) return;
  const auto length = static_cast<std::size_t>(continuation_.prefix_len);
  std::ranges::fill(t_.floats().first(length), 0.0F);
}

void ContinuedFlow::advance(std::size_t step) noexcept {
  if (has_prefix()) {
    std::ranges::copy(x_next_.floats(), x_.floats().begin());
    write_prefix();
  } else {
    guide(step);
  }
}

// The step has moved x against the velocity u by u / N. What is added pulls the actions that this
// velocity leads to, x - t * u, towards the known ones.
void ContinuedFlow::guide(std::size_t step) noexcept {
  const float t = time(step);
  const auto count = static_cast<float>(num_inference_steps_);
  const auto strength = static_cast<float>(
      guidance_weight(static_cast<double>(t), continuation_.settings->max_guidance_weight));
  const std::span<float> x = x_.floats();
  const std::span<float> x_next = x_next_.floats();
  const std::span<const float> known = continuation_.previous;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float weight = weights_[i / action_dim_];
    float pull = 0.0F;
    if (weight > 0.0F && i < known.size()) {
      const float velocity = (x[i] - x_next[i]) * count;
      pull = (known[i] - (x[i] - t * velocity)) * weight;
    }
    x[i] = x_next[i] + strength * pull / count;
  }
}

}  // namespace flux
