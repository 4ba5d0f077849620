// The host's part in the Euler steps of a chunk that continues the running one: what it writes
// before each step, and how it changes the step's result. flux_core.models.pi.sampling is the same
// in PyTorch.
//
// Letters in shapes: H action_horizon, A action_dim of the network, K rows left of the running
// chunk.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "flux/continuation.hpp"
#include "flux/tensor.hpp"

namespace flux {

class ContinuedFlow {
 public:
  // Allocates all memory.
  ContinuedFlow(int action_horizon, int action_dim, int num_inference_steps);

  // What the denoise graph reads and writes: (H, A), (H), (H, A) and (H) floats.
  [[nodiscard]] Buffer& x() noexcept { return x_; }
  [[nodiscard]] Buffer& t() noexcept { return t_; }
  [[nodiscard]] Buffer& x_next() noexcept { return x_next_; }
  [[nodiscard]] Buffer& t_next() noexcept { return t_next_; }

  // Starts a chunk. `continuation`, which the policy has checked, outlives it.
  void begin(const Continuation& continuation, std::span<const float> noise) noexcept;
  // Writes the inputs of step 0, 1, ... N - 1.
  void prepare(std::size_t step) noexcept;
  // Makes the step's result the next step's input; after the last one, x holds the actions.
  void advance(std::size_t step) noexcept;

 private:
  [[nodiscard]] bool has_prefix() const noexcept;
  [[nodiscard]] float time(std::size_t step) const noexcept;
  void write_prefix() noexcept;
  void set_weights() noexcept;
  void guide(std::size_t step) noexcept;

  std::size_t action_horizon_;
  std::size_t action_dim_;
  std::size_t num_inference_steps_;
  Continuation continuation_;
  std::vector<float> weights_;  // (H), of guidance
  Buffer x_;
  Buffer t_;
  Buffer x_next_;
  Buffer t_next_;
};

// Writes the weight of each row, (H): 1 in the prefix, 0 from `decay_end` on.
void prefix_weights(int prefix_len, int decay_end, GuidanceSchedule schedule,
                    std::span<float> weights) noexcept;

// The strength of guidance at flow time `t`: equation 2 of "Real-Time Execution of Action Chunking
// Flow Policies" (Black et al. 2025), whose tau is 1 - t.
[[nodiscard]] double guidance_weight(double t, double maximum) noexcept;

}  // namespace flux
