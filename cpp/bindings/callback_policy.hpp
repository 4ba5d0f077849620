// A policy whose chunks a function of Python makes, such as one that asks another machine.
#pragma once

#include <pybind11/pybind11.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "flux/policy.hpp"

namespace flux::bindings {

class CallbackPolicy final : public Policy {
 public:
  // Args:
  //   call: called as call(inputs, noise, previous, prefix_len, cancelled) and returns float32
  //     (H, A). It may be called, and released, on any thread.
  //
  // Throws std::invalid_argument, naming the value, if a shape is empty or an input has none.
  CallbackPolicy(pybind11::object call, std::vector<TensorInfo> inputs, int action_horizon,
                 int action_dim, bool can_continue);

  [[nodiscard]] bool can_continue() const noexcept override { return can_continue_; }

 private:
  void compute(std::span<const TensorView> inputs, std::span<const float> noise,
               std::span<float> actions, FlowHistograms* also, const std::atomic<bool>* cancel,
               const Continuation* continuation) override;

  std::shared_ptr<void> call_;  // a Python object
  bool can_continue_;
};

}  // namespace flux::bindings
