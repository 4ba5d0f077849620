#include "flux/robot_policy.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "flux/tensor.hpp"

namespace flux {

RobotPolicy::RobotPolicy(std::shared_ptr<Policy> policy, ActionDecoder decoder,
                         ContinuationSettings continuation)
    : policy_(std::move(policy)),
      decoder_(std::move(decoder)),
      settings_(std::move(continuation)),
      normalised_(policy_->num_action_values()),
      previous_(policy_->num_action_values()) {
  const auto network_dim = static_cast<std::size_t>(policy_->action_dim());
  if (decoder_.action_dim() > network_dim) {
    throw std::invalid_argument(expected_got(
        "decoder", "at most the policy's " + std::to_string(network_dim) + " action dimensions",
        std::to_string(decoder_.action_dim())));
  }
  check(settings_, policy_->action_horizon());
}

std::size_t RobotPolicy::action_horizon() const noexcept {
  return static_cast<std::size_t>(policy_->action_horizon());
}

void RobotPolicy::infer(std::span<const TensorView> inputs, std::span<const float> state,
                        std::span<const float> noise, const KnownRows& known,
                        std::span<float> actions, FlowHistograms* also,
                        const std::atomic<bool>* cancel) {
  const auto network_dim = static_cast<std::size_t>(policy_->action_dim());
  Continuation continuation{.settings = &settings_, .previous = {}, .prefix_len = known.prefix_len};
  if (known.prefix_len > 0) {
    const std::size_t rows = std::min(known.rows.size() / action_dim(), action_horizon());
    const std::span<float> previous = std::span(previous_).first(rows * network_dim);
    decoder_.encode(known.rows.first(rows * action_dim()), network_dim, state, previous);
    continuation.previous = previous;
  }
  policy_->infer(inputs, noise, normalised_, also, cancel, &continuation);
  decoder_.decode(normalised_, network_dim, state, actions);
}

}  // namespace flux
