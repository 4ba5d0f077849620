// The interface between the control loop and a policy: one observation and noise in, one chunk of
// actions out.
//
// Letters in shapes: H action_horizon, A action_dim of the network.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

#include "flux/continuation.hpp"
#include "flux/histogram.hpp"
#include "flux/tensor.hpp"

namespace flux {

// How long the stages of an inference took. A policy that cannot time a stage separately leaves its
// histogram empty.
struct FlowHistograms {
  Histogram copy_in;
  Histogram prefix;
  Histogram step;     // each Euler step
  Histogram denoise;  // all steps
  Histogram inference;

  [[nodiscard]] std::array<std::pair<const char*, const Histogram*>, 5> stages() const noexcept {
    return {{{"copy_in", &copy_in},
             {"prefix", &prefix},
             {"step", &step},
             {"denoise", &denoise},
             {"inference", &inference}}};
  }
};

// Nobody wants the result of an inference any more.
class InferenceCancelled : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Measures a stage with the machine's clock and records it in one or two histograms.
class StageTimer {
 public:
  StageTimer() noexcept;

  void record(Histogram FlowHistograms::* stage, FlowHistograms& first,
              FlowHistograms* second) const noexcept;

 private:
  std::int64_t begin_ns_;
};

// Memory for one inference's inputs, filled by one thread and used by another.
class StagedInputs {
 public:
  explicit StagedInputs(std::span<const TensorInfo> infos, std::size_t num_noise);

  // Copies inputs and noise that Policy::check has accepted.
  void copy(std::span<const TensorView> inputs, std::span<const float> noise) noexcept;
  [[nodiscard]] std::span<const TensorView> views() const noexcept { return views_; }
  [[nodiscard]] std::span<const float> noise() const noexcept { return noise_; }

 private:
  std::vector<TensorInfo> infos_;
  std::vector<Buffer> buffers_;
  std::vector<TensorView> views_;
  std::vector<float> noise_;
};

class Policy {
 public:
  Policy() = default;
  Policy(const Policy&) = delete;
  Policy& operator=(const Policy&) = delete;
  virtual ~Policy() = default;

  // The inputs that a caller must provide.
  [[nodiscard]] std::span<const TensorInfo> user_inputs() const noexcept { return user_inputs_; }
  [[nodiscard]] int action_horizon() const noexcept { return action_horizon_; }
  [[nodiscard]] int action_dim() const noexcept { return action_dim_; }
  [[nodiscard]] std::size_t num_action_values() const noexcept;

  // Throws std::invalid_argument, naming the tensor, unless `inputs` are exactly the user inputs
  // and `noise` holds (H, A) values.
  void check(std::span<const TensorView> inputs, std::span<const float> noise) const;

  // Writes (H, A) normalised actions. Inputs and noise are not modified. Calls are serialised.
  // `also`, if not null, receives the stage times in addition to histograms(). Throws like `check`,
  // and std::runtime_error if the engine fails.
  //
  // `cancel`, if not null, is read before every stage that runs singly; once it is true, the
  // inference ends with InferenceCancelled. An inference that is a single launch runs to its end.
  //
  // `continuation`, if not null, makes the chunk continue the running one. Throws
  // std::invalid_argument, naming the value, if it does not fit the policy.
  void infer(std::span<const TensorView> inputs, std::span<const float> noise,
             std::span<float> actions, FlowHistograms* also = nullptr,
             const std::atomic<bool>* cancel = nullptr, const Continuation* continuation = nullptr);

  // Whether a chunk can continue the running one.
  [[nodiscard]] virtual bool can_continue() const noexcept { return false; }
  // Whether it can also do so with method kGuidance, which takes access to every Euler step.
  [[nodiscard]] virtual bool can_guide() const noexcept { return can_continue(); }

  [[nodiscard]] const FlowHistograms& histograms() const noexcept { return histograms_; }

 protected:
  // The subclass's constructor must call each of these once.
  void set_user_inputs(std::vector<TensorInfo> infos) { user_inputs_ = std::move(infos); }
  void set_action_shape(int action_horizon, int action_dim) noexcept;

  // Implements `infer`; called with checked arguments, by one thread at a time. `continuation` is
  // null if there is nothing to continue.
  virtual void compute(std::span<const TensorView> inputs, std::span<const float> noise,
                       std::span<float> actions, FlowHistograms* also,
                       const std::atomic<bool>* cancel, const Continuation* continuation) = 0;

  FlowHistograms histograms_;

 private:
  void check(const Continuation& continuation) const;

  std::vector<TensorInfo> user_inputs_;
  int action_horizon_ = 0;
  int action_dim_ = 0;
  std::mutex mutex_;
};

}  // namespace flux
