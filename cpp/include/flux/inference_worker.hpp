// Turns observations into chunks: at once, or on a thread of its own.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "flux/action_decoder.hpp"
#include "flux/chunk_scheduler.hpp"
#include "flux/policy.hpp"

namespace flux {

// One inference at a time, handed over through a single atomic state:
//
//   kIdle --request--> kBusy --(thread)--> kReady or kFailed --release--> kIdle
//
// The requesting thread owns the chunk and the error in every state but kBusy, the inference
// thread in kBusy. status(), chunk() and release() neither lock nor allocate.
class InferenceWorker {
 public:
  enum class Status : int { kIdle, kBusy, kReady, kFailed };

  // Allocates all memory of a request and starts the thread if `has_thread`. Throws
  // std::invalid_argument if the decoder has more dimensions than the policy.
  InferenceWorker(std::shared_ptr<Policy> policy, ActionDecoder decoder, bool has_thread);
  InferenceWorker(const InferenceWorker&) = delete;
  InferenceWorker& operator=(const InferenceWorker&) = delete;
  ~InferenceWorker();

  // Infers now. Afterwards the status is kReady; if inference throws, so does this, and the
  // status is kIdle.
  void infer(std::span<const TensorView> inputs, std::span<const float> state,
             std::span<const float> noise);
  // Copies the arguments and wakes the thread. The status must be kIdle. Throws
  // std::invalid_argument if the policy does not accept the inputs.
  void request(std::span<const TensorView> inputs, std::span<const float> state,
               std::span<const float> noise);

  [[nodiscard]] Status status() const noexcept { return status_.load(std::memory_order_acquire); }
  // Returns as soon as the status is not kBusy.
  void wait() const noexcept;
  // Ends kReady or kFailed.
  void release() noexcept { status_.store(Status::kIdle, std::memory_order_release); }
  // The result in kReady. Only the actions are set here; the rest is the requester's.
  [[nodiscard]] Chunk& chunk() noexcept { return chunk_; }
  // What the inference threw, in kFailed.
  [[nodiscard]] std::exception_ptr error() const noexcept { return error_; }
  // How long the last inference took.
  [[nodiscard]] double inference_seconds() const noexcept { return inference_seconds_; }

  // Waits for the inference in flight and ends the thread.
  void stop() noexcept;

  [[nodiscard]] const Policy& policy() const noexcept { return *policy_; }
  // Of the inferences asked for here; the policy's own count everybody's.
  [[nodiscard]] const FlowHistograms& histograms() const noexcept { return histograms_; }

 private:
  void run(std::span<const TensorView> inputs, std::span<const float> noise);
  void serve() noexcept;

  std::shared_ptr<Policy> policy_;
  ActionDecoder decoder_;
  StagedInputs staged_;
  std::vector<float> normalised_;  // (H, A of the network)
  std::vector<float> state_;       // (A)
  Chunk chunk_;
  std::exception_ptr error_;
  double inference_seconds_ = 0.0;
  FlowHistograms histograms_;
  std::atomic<Status> status_{Status::kIdle};
  // Number of requests; the thread sleeps on it. Negative: end.
  std::atomic<int> requests_{0};
  std::thread thread_;
};

}  // namespace flux
