#include "flux/chunk_inference.hpp"

#include <stdexcept>
#include <utility>

#include "flux/tensor.hpp"

namespace flux {

ChunkInference::ChunkInference(std::shared_ptr<Policy> policy, const ActionDecoder& decoder,
                               std::shared_ptr<ChunkMailbox> mailbox, int execution_horizon,
                               const ContinuationSettings& continuation)
    : policy_(std::move(policy)),
      mailbox_(std::move(mailbox)),
      execution_horizon_(static_cast<std::size_t>(execution_horizon)) {
  if (decoder.action_dim() != mailbox_->action_dim()) {
    throw std::invalid_argument(expected_got(
        "decoder", "the robot's " + std::to_string(mailbox_->action_dim()) + " action dimensions",
        std::to_string(decoder.action_dim())));
  }
  if (policy_ == nullptr) return;
  robot_policy_ = std::make_unique<RobotPolicy>(policy_, decoder, continuation);
  if (execution_horizon > policy_->action_horizon()) {
    throw std::invalid_argument(expected_got(
        "execution_horizon",
        "1 to the policy's action_horizon " + std::to_string(policy_->action_horizon()),
        std::to_string(execution_horizon)));
  }
  actions_.resize(robot_policy_->action_horizon() * decoder.action_dim());
}

void ChunkInference::compute(const InferenceRequest& request, std::span<const TensorView> inputs,
                             std::span<const float> state, std::span<const float> noise) {
  if (policy_ == nullptr) {
    throw std::logic_error(
        expected_got("infer", "a loop with a policy", "one without. Use submit_chunk()."));
  }
  if (state.size() != robot_policy_->action_dim()) {
    throw std::invalid_argument(
        expected_got("state", std::to_string(robot_policy_->action_dim()) + " values",
                     std::to_string(state.size())));
  }
  if (!mailbox_->is_open(request)) throw InferenceCancelled("inference: cancelled");
  const KnownRows known{.rows = mailbox_->previous(), .prefix_len = request.prefix_len};
  robot_policy_->infer(inputs, state, noise, known, actions_, &histograms_,
                       &mailbox_->is_cancelled());
}

bool ChunkInference::infer(const InferenceRequest& request, std::span<const TensorView> inputs,
                           std::span<const float> state, std::span<const float> noise,
                           std::int64_t observed_ns) {
  try {
    compute(request, inputs, state, noise);
  } catch (const InferenceCancelled&) {
    mailbox_->give_up(request);
    return false;
  } catch (const std::exception& error) {
    mailbox_->fail(request, error.what());
    throw;
  } catch (...) {
    mailbox_->fail(request, "an unknown exception");
    throw;
  }
  return mailbox_->answer(request, actions_, observed_ns) && mailbox_->is_wanted(request);
}

bool ChunkInference::submit(const InferenceRequest& request, std::span<const float> actions,
                            std::int64_t observed_ns) {
  const std::size_t action_dim = mailbox_->action_dim();
  const std::size_t rows = actions.size() / action_dim;
  const bool is_whole = actions.size() % action_dim == 0;
  if (!is_whole || rows < execution_horizon_ || rows > mailbox_->max_rows()) {
    const std::string text = expected_got("actions",
                                          "(H, " + std::to_string(action_dim) +
                                              ") with H of at least execution_horizon " +
                                              std::to_string(execution_horizon_) + " and at most " +
                                              std::to_string(mailbox_->max_rows()),
                                          std::to_string(actions.size()) + " values");
    mailbox_->fail(request, text);
    throw std::invalid_argument(text);
  }
  return mailbox_->answer(request, actions, observed_ns) && mailbox_->is_wanted(request);
}

}  // namespace flux
