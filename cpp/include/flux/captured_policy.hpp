// A policy that lies on an NVIDIA card as one CUDA graph: inputs in, prefix, all Euler steps,
// actions out. Whoever builds the graph owns it and its memory; an inference is one launch.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flux/cuda_abi.hpp"
#include "flux/engine.hpp"
#include "flux/policy.hpp"

namespace flux {

// What was captured. The graph's first nodes copy the inputs and the noise from the host's memory
// that is named here, which is page-locked; its last node copies the actions there.
struct CapturedGraph {
  struct Input {
    TensorInfo info;
    void* host = nullptr;
  };

  std::string driver = "libcuda.so.1";  // the library
  cuda::Context* context = nullptr;
  cuda::Stream* stream = nullptr;
  cuda::GraphExec* exec = nullptr;
  std::vector<Input> inputs = {};
  float* noise = nullptr;          // (H, A)
  const float* actions = nullptr;  // (H, A)
  int action_horizon = 0;
  int action_dim = 0;
  std::shared_ptr<void> owner = nullptr;  // kept alive; owns all of the above
};

class CapturedPolicy final : public Policy {
 public:
  // Throws EngineUnavailable if the driver's library cannot be loaded, std::invalid_argument if a
  // handle or memory is missing.
  explicit CapturedPolicy(CapturedGraph graph);

 private:
  void compute(std::span<const TensorView> inputs, std::span<const float> noise,
               std::span<float> actions, FlowHistograms* also) override;
  void require_success(int code, const char* call) const;

  CapturedGraph graph_;
  cuda::Calls calls_;
};

}  // namespace flux
