// A flow-matching policy: one prefix pass, then N Euler steps of the denoise graph.
//
// Flow convention: t = 1 is noise, t = 0 is data, x_t = t * noise + (1 - t) * actions. The denoise
// graph contains the Euler update, x_next = x_t + dt * u(x_t, t) with dt = -1 / N, so the loop here
// only alternates between two sets of buffers. The engines allocate these buffers and the keys and
// values; on an accelerator they never pass through the host.
//
// A chunk that continues the running one runs the same graph, but the host sees and changes x_t and
// t before every step.
//
// Letters in shapes: H action_horizon, A action_dim of the network.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flux/continued_flow.hpp"
#include "flux/engine.hpp"
#include "flux/policy.hpp"

namespace flux {

class FlowPolicy final : public Policy {
 public:
  // Binds both graphs and allocates all memory for an inference. A prefix output that the denoise
  // graph reads is the same memory in both graphs. Only the user's inputs, the noise and the last
  // step's actions are in host memory. The user's inputs are all inputs of the prefix graph, and
  // those of the denoise graph except x_t, t and the outputs of the prefix graph. Throws
  // std::invalid_argument, naming the tensor, if the graphs do not fit together.
  FlowPolicy(std::unique_ptr<Engine> prefix, std::unique_ptr<Engine> denoise,
             int num_inference_steps);

  [[nodiscard]] bool can_continue() const noexcept override { return true; }

 private:
  struct Tensor {
    TensorInfo info;
    TensorMemory memory;
    bool is_user_input = false;
  };
  // What a step reads or writes: partly denoised actions and their flow times.
  struct Flow {
    TensorMemory x;
    TensorMemory t;
  };

  void compute(std::span<const TensorView> inputs, std::span<const float> noise,
               std::span<float> actions, FlowHistograms* also, const std::atomic<bool>* cancel,
               const Continuation* continuation) override;
  void read_action_shape();
  void add_tensor(const TensorInfo& info, bool is_user_input);
  void bind_prefix();
  void bind_steps();
  void bind_continued(std::span<const BoundBuffer> shared);
  [[nodiscard]] std::size_t bind_step(std::size_t step, std::span<const BoundBuffer> shared,
                                      const std::array<Flow, 2>& halves);
  [[nodiscard]] bool has_own_binding(std::size_t step) const noexcept;
  void copy_in(std::span<const TensorView> inputs, std::span<const float> noise);
  void upload_steps();
  void run_steps(FlowHistograms* also, const std::atomic<bool>* cancel);
  void run_continued_steps(const Continuation& continuation, std::span<const float> noise,
                           FlowHistograms* also, const std::atomic<bool>* cancel);
  void run_step(std::size_t binding, FlowHistograms* also, const std::atomic<bool>* cancel);

  std::vector<Buffer> host_memory_;  // for the user's inputs; outlives the engines bound to it
  Buffer noise_{0};
  Buffer ones_{0};  // flow times of the first step
  Buffer actions_{0};
  std::unique_ptr<Engine> prefix_;
  std::unique_ptr<Engine> denoise_;  // bound to memory of the prefix engine
  std::size_t num_inference_steps_;
  std::map<std::string, Tensor, std::less<>> tensors_;
  std::size_t prefix_binding_ = 0;
  std::vector<std::size_t> step_bindings_;  // one per step

  std::unique_ptr<ContinuedFlow> continued_;
  std::size_t continued_binding_ = 0;  // of every step of a chunk that continues another one
};

}  // namespace flux
