// Turns observations into chunks, on the calling thread or on its own thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <exception>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "flux/action_decoder.hpp"
#include "flux/policy.hpp"
#include "flux/robot_policy.hpp"

namespace flux {

// One inference at a time, handed over through a single atomic state:
//
//   kIdle --request--> kBusy --(thread)--> kReady or kFailed --release--> kIdle
//
// The inference thread owns the chunk and the error in kBusy, the requesting thread in all other
// states. status(), chunk() and release() neither lock nor allocate.
class InferenceWorker {
 public:
  enum class Status : int { kIdle, kBusy, kReady, kFailed };

  // Allocates all memory for a request, and starts the thread if `has_thread`. Throws like
  // RobotPolicy.
  InferenceWorker(std::shared_ptr<Policy> policy, const ActionDecoder& decoder,
                  const ContinuationSettings& continuation, bool has_thread);
  InferenceWorker(const InferenceWorker&) = delete;
  InferenceWorker& operator=(const InferenceWorker&) = delete;
  ~InferenceWorker();

  // Runs the inference on the calling thread. Afterwards the status is kReady; if the inference
  // throws, so does this function, and the status stays kIdle.
  void infer(std::span<const TensorView> inputs, std::span<const float> state,
             std::span<const float> noise);
  // Copies the arguments and wakes the thread. The status must be kIdle. Throws
  // std::invalid_argument if the policy does not accept the inputs.
  //
  // Args:
  //   known: continued; rows beyond the policy's action_horizon are ignored.
  void request(std::span<const TensorView> inputs, std::span<const float> state,
               std::span<const float> noise, const KnownRows& known = {});

  [[nodiscard]] Status status() const noexcept { return status_.load(std::memory_order_acquire); }
  // Returns as soon as the status is not kBusy.
  void wait() const noexcept;
  // Goes from kReady or kFailed to kIdle.
  void release() noexcept { status_.store(Status::kIdle, std::memory_order_release); }
  // The result, (H, A) in robot units, valid in kReady. May be swapped for other memory.
  [[nodiscard]] std::vector<float>& actions() noexcept { return actions_; }
  // The exception that the inference threw; valid in kFailed.
  [[nodiscard]] std::exception_ptr error() const noexcept { return error_; }
  // How long the last inference took.
  [[nodiscard]] double inference_s() const noexcept { return inference_s_; }

  // Waits for the inference in flight and stops the thread.
  void stop() noexcept;

  [[nodiscard]] const Policy& policy() const noexcept { return *policy_.policy(); }
  // Times of this worker's inferences only; policy().histograms() includes those of other callers.
  [[nodiscard]] const FlowHistograms& histograms() const noexcept { return histograms_; }

 private:
  void run(std::span<const TensorView> inputs, std::span<const float> noise);
  void serve() noexcept;

  RobotPolicy policy_;
  StagedInputs staged_;
  std::vector<float> state_;  // (A)
  std::vector<float> known_;  // (H, A)
  KnownRows staged_known_;    // in known_
  std::vector<float> actions_;
  std::exception_ptr error_;
  double inference_s_ = 0.0;
  FlowHistograms histograms_;
  std::atomic<Status> status_{Status::kIdle};
  // Number of requests; the thread waits on it. A negative value ends the thread.
  std::atomic<int> requests_{0};
  std::thread thread_;
};

}  // namespace flux
