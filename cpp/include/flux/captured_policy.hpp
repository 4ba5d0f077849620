// A policy captured as one CUDA graph on an NVIDIA GPU: copy the inputs in, run the prefix and all
// Euler steps, copy the actions out. Whoever builds the graph owns it and its memory; an inference
// is a single launch.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "flux/cuda_abi.hpp"
#include "flux/engine.hpp"
#include "flux/policy.hpp"

namespace flux {

// A captured graph and the page-locked host memory that it uses. Its first nodes copy the inputs
// and the noise from that memory; its last node copies the actions back to it.
struct CapturedGraph {
  struct Input {
    TensorInfo info;
    void* host = nullptr;
  };

  std::string driver = "libcuda.so.1";  // the driver's library
  cuda::Context* context = nullptr;
  cuda::Stream* stream = nullptr;
  cuda::GraphExec* exec = nullptr;
  std::vector<Input> inputs = {};
  float* noise = nullptr;          // (H, A)
  const float* actions = nullptr;  // (H, A)
  int action_horizon = 0;
  int action_dim = 0;
  std::shared_ptr<void> owner = nullptr;  // owns all of the above; kept alive with the policy
};

class CapturedPolicy final : public Policy {
 public:
  // Throws EngineUnavailable if the driver's library cannot be loaded, std::invalid_argument if a
  // handle or an address is null or the action shape is empty.
  explicit CapturedPolicy(CapturedGraph graph);

 private:
  void compute(std::span<const TensorView> inputs, std::span<const float> noise,
               std::span<float> actions, FlowHistograms* also, const std::atomic<bool>* cancel,
               const Continuation* continuation) override;
  void check(int code, const char* call) const;

  CapturedGraph graph_;
  cuda::GraphCalls calls_;
};

}  // namespace flux
