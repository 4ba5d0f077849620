// A flow-matching policy: one prefix pass, then N Euler steps of the denoise graph.
//
// Flow convention: t = 1 is noise, t = 0 is data, x_t = t * noise + (1 - t) * actions. The denoise
// graph holds the Euler update, x_next = x_t + dt * u(x_t, t) with dt = -1 / N, so that the loop
// here only alternates two sets of buffers. Those, and the keys and values, are memory that the
// engines allocate: on an accelerator nothing of them passes through the host.
//
// Letters in shapes: H action_horizon, A action_dim of the network.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flux/engine.hpp"
#include "flux/policy.hpp"

namespace flux {

class FlowPolicy final : public Policy {
 public:
  // Binds both graphs; all memory of an inference is allocated here. Prefix outputs that the
  // denoise graph takes are the same memory on both sides. Only the user's inputs, the noise and
  // the last step's actions are memory of the host. Throws std::invalid_argument, naming
  // the tensor, if the graphs do not fit each other. The user's inputs are the prefix graph's and
  // those of the denoise graph that are neither x_t, t nor outputs of the prefix.
  FlowPolicy(std::unique_ptr<Engine> prefix, std::unique_ptr<Engine> denoise,
             int num_inference_steps);

 private:
  struct Tensor {
    TensorInfo info;
    TensorMemory memory;
    bool is_user_input = false;
  };
  // What a step reads or writes: actions under way and their times.
  struct Flow {
    TensorMemory x;
    TensorMemory t;
  };

  void compute(std::span<const TensorView> inputs, std::span<const float> noise,
               std::span<float> actions, FlowHistograms* also) override;
  void read_action_shape();
  void add_tensor(const TensorInfo& info, bool is_user_input);
  void bind_prefix();
  void bind_steps();
  [[nodiscard]] std::size_t bind_step(std::size_t step, std::span<const BoundBuffer> shared,
                                      const std::array<Flow, 2>& halves);
  [[nodiscard]] bool has_binding_of_its_own(std::size_t step) const noexcept;
  void copy_in(std::span<const TensorView> inputs, std::span<const float> noise);
  void upload_steps();
  void run_steps(FlowHistograms* also);

  std::vector<Buffer> host_memory_;  // of the user's inputs; outlives the engines bound to it
  Buffer noise_{0};
  Buffer ones_{0};  // the first step's times
  Buffer actions_{0};
  std::unique_ptr<Engine> prefix_;
  std::unique_ptr<Engine> denoise_;  // bound to memory of the prefix engine
  std::size_t num_inference_steps_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::size_t prefix_binding_ = 0;
  std::vector<std::size_t> step_bindings_;  // one for each step
};

}  // namespace flux
