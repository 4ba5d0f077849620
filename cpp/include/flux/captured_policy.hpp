// A policy captured as CUDA graphs on an NVIDIA GPU: copy the inputs in, run the prefix and all
// Euler steps, copy the actions out. Whoever builds the graphs owns them and their memory; an
// inference is a single launch.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "flux/cuda_abi.hpp"
#include "flux/engine.hpp"
#include "flux/policy.hpp"

namespace flux {

// Writes an inference's inputs where a graph reads them, and chooses the graph.
class CapturedInputs {
 public:
  CapturedInputs() = default;
  CapturedInputs(const CapturedInputs&) = delete;
  CapturedInputs& operator=(const CapturedInputs&) = delete;
  virtual ~CapturedInputs() = default;

  // The inputs that `write` takes.
  [[nodiscard]] virtual std::vector<TensorInfo> infos() const = 0;
  // Whether the graphs take rows that are known.
  [[nodiscard]] virtual bool takes_prefix() const noexcept { return false; }
  // Called with checked arguments. Does not allocate. Throws std::invalid_argument, naming the
  // tensor, if there is no graph for such values.
  //
  // Args:
  //   continuation: of method kPrefix; null if there is nothing to continue.
  [[nodiscard]] virtual cuda::GraphExec* write(std::span<const TensorView> inputs,
                                               std::span<const float> noise,
                                               const Continuation* continuation) = 0;
};

// Captured graphs and the page-locked host memory that they use. Their first nodes copy the inputs
// and the noise from that memory; their last node copies the actions back to it.
struct CapturedGraphs {
  std::string driver = "libcuda.so.1";  // the driver's library
  cuda::Context* context = nullptr;
  cuda::Stream* stream = nullptr;
  std::unique_ptr<CapturedInputs> inputs = nullptr;
  const float* actions = nullptr;  // (H, A)
  int action_horizon = 0;
  int action_dim = 0;
  std::shared_ptr<void> owner = nullptr;  // owns all of the above; kept alive with the policy
};

// A single graph, for every inference.
struct CapturedGraph {
  struct Input {
    TensorInfo info;
    void* host = nullptr;
  };

  std::string driver = "libcuda.so.1";
  cuda::Context* context = nullptr;
  cuda::Stream* stream = nullptr;
  cuda::GraphExec* exec = nullptr;
  std::vector<Input> inputs = {};
  float* noise = nullptr;          // (H, A)
  const float* actions = nullptr;  // (H, A)
  int action_horizon = 0;
  int action_dim = 0;
  std::shared_ptr<void> owner = nullptr;
};

class CapturedPolicy final : public Policy {
 public:
  // Throws EngineUnavailable if the driver's library cannot be loaded, std::invalid_argument if a
  // handle or an address is null or the action shape is empty.
  explicit CapturedPolicy(CapturedGraphs graphs);
  explicit CapturedPolicy(CapturedGraph graph);

  // With method kPrefix only: nothing reaches the Euler steps of a captured inference.
  [[nodiscard]] bool can_continue() const noexcept override;
  [[nodiscard]] bool can_guide() const noexcept override { return false; }

 private:
  void compute(std::span<const TensorView> inputs, std::span<const float> noise,
               std::span<float> actions, FlowHistograms* also, const std::atomic<bool>* cancel,
               const Continuation* continuation) override;
  void check(int code, const char* call) const;

  CapturedGraphs graphs_;
  cuda::GraphCalls calls_;
};

}  // namespace flux
