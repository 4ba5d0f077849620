// Turns observations into chunks on the thread that calls it, for a control thread that does not
// wait for it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flux/action_decoder.hpp"
#include "flux/chunk_mailbox.hpp"
#include "flux/policy.hpp"
#include "flux/robot_policy.hpp"

namespace flux {

// Used by one inference thread. Whoever calls it holds a shared_ptr to it, so that an inference
// that never returns keeps alive what it uses.
class ChunkInference {
 public:
  // Args:
  //   policy: may be null; chunks then come only from submit().
  //   continuation: how chunks continue the running one, where a request asks for that.
  //
  // Throws std::invalid_argument if the decoder has more dimensions than the policy.
  ChunkInference(std::shared_ptr<Policy> policy, const ActionDecoder& decoder,
                 std::shared_ptr<ChunkMailbox> mailbox, int execution_horizon,
                 const ContinuationSettings& continuation = {});

  // Null if there is none.
  [[nodiscard]] const std::shared_ptr<Policy>& policy() const noexcept { return policy_; }

  // Infers and submits a chunk. Returns false if nobody wants it any more. If it throws, the
  // request is answered with the failure: std::invalid_argument for wrong arguments,
  // std::logic_error without a policy, std::runtime_error if the engine fails.
  //
  // Args:
  //   state: (A), in robot units.
  //   observed_ns: the oldest capture time of what the inputs were made from.
  bool infer(const InferenceRequest& request, std::span<const TensorView> inputs,
             std::span<const float> state, std::span<const float> noise, std::int64_t observed_ns);
  // Submits finished actions, (rows, A) in robot units, with rows of at least execution_horizon.
  bool submit(const InferenceRequest& request, std::span<const float> actions,
              std::int64_t observed_ns);
  // Answers a request with a failure; does nothing if it is answered.
  void fail(const InferenceRequest& request, const std::string& text) {
    mailbox_->fail(request, text);
  }

  // The last chunk that was inferred, (H, A) in robot units. Inference thread.
  [[nodiscard]] std::span<const float> actions() const noexcept { return actions_; }
  [[nodiscard]] ChunkMailbox& mailbox() noexcept { return *mailbox_; }
  [[nodiscard]] const std::shared_ptr<ChunkMailbox>& shared_mailbox() const noexcept {
    return mailbox_;
  }
  // Times of these inferences only.
  [[nodiscard]] FlowHistograms& histograms() noexcept { return histograms_; }

 private:
  void compute(const InferenceRequest& request, std::span<const TensorView> inputs,
               std::span<const float> state, std::span<const float> noise);

  std::shared_ptr<Policy> policy_;
  std::unique_ptr<RobotPolicy> robot_policy_;  // null without a policy
  std::shared_ptr<ChunkMailbox> mailbox_;
  std::size_t execution_horizon_;
  std::vector<float> actions_;  // (H, A)
  FlowHistograms histograms_;
};

}  // namespace flux
