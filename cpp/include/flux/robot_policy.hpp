// A policy whose chunks are in robot units.
//
// Letters in shapes: H action_horizon, A the robot's action_dim, K rows left of the running chunk.
#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "flux/action_decoder.hpp"
#include "flux/continuation.hpp"
#include "flux/policy.hpp"

namespace flux {

// What is left of the running chunk when its successor is observed.
struct KnownRows {
  std::span<const float> rows;  // (K, A), in robot units
  // Of these, how many will have been executed; 0 if there is nothing to continue.
  int prefix_len = 0;
};

class RobotPolicy {
 public:
  // Allocates all memory for an inference. Throws std::invalid_argument if the decoder has more
  // dimensions than the policy, or if the settings are out of range.
  RobotPolicy(std::shared_ptr<Policy> policy, ActionDecoder decoder,
              ContinuationSettings continuation = {});

  [[nodiscard]] const std::shared_ptr<Policy>& policy() const noexcept { return policy_; }
  [[nodiscard]] std::size_t action_dim() const noexcept { return decoder_.action_dim(); }
  [[nodiscard]] std::size_t action_horizon() const noexcept;

  // Writes (H, A) actions. Throws like Policy::infer. Used by one thread at a time.
  //
  // Args:
  //   state: (A), in robot units.
  //   known: continued if its prefix is not empty; rows beyond H are ignored.
  void infer(std::span<const TensorView> inputs, std::span<const float> state,
             std::span<const float> noise, const KnownRows& known, std::span<float> actions,
             FlowHistograms* also = nullptr, const std::atomic<bool>* cancel = nullptr);

 private:
  std::shared_ptr<Policy> policy_;
  ActionDecoder decoder_;
  ContinuationSettings settings_;
  std::vector<float> normalised_;  // (H, A of the network)
  std::vector<float> previous_;    // likewise
};

}  // namespace flux
