// A FlowPolicy over two engines written in C++, small enough to work out by hand.
//
// prefix:  past_key_0 (1, A) = 2 * observation (1, A)
// denoise: x_next = x_t + dt * (x_t - past_key_0), t_next = t + dt
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "flux/flow_policy.hpp"

namespace flux::test {

using Memory = std::map<std::string, float*, std::less<>>;

class FakeEngine final : public Engine {
 public:
  FakeEngine(std::vector<TensorInfo> inputs, std::vector<TensorInfo> outputs,
             std::function<void(const Memory&)> compute)
      : inputs_(std::move(inputs)), outputs_(std::move(outputs)), compute_(std::move(compute)) {}

  [[nodiscard]] std::span<const TensorInfo> inputs() const noexcept override { return inputs_; }
  [[nodiscard]] std::span<const TensorInfo> outputs() const noexcept override { return outputs_; }

  [[nodiscard]] std::size_t bind(std::span<const BoundBuffer> buffers) override {
    Memory memory;
    for (const BoundBuffer& buffer : buffers) {
      memory.emplace(buffer.name, static_cast<float*>(buffer.data));
    }
    bindings_.push_back(std::move(memory));
    return bindings_.size() - 1;
  }

  void run(std::size_t binding) override { compute_(bindings_[binding]); }

 private:
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::function<void(const Memory&)> compute_;
  std::vector<Memory> bindings_;
};

inline constexpr int kHorizon = 6;
inline constexpr int kDim = 2;
inline constexpr int kSteps = 4;

struct Hooks {
  std::function<void()> on_prefix = [] {};
  std::function<void(const Memory&)> on_step = [](const Memory&) {};
};

inline TensorInfo floats(std::string name, std::vector<std::int64_t> shape) {
  return {.name = std::move(name), .dtype = DType::kFloat32, .shape = std::move(shape)};
}

inline std::unique_ptr<Engine> toy_prefix(Hooks hooks = {}) {
  return std::make_unique<FakeEngine>(
      std::vector{floats("observation", {1, kDim})}, std::vector{floats("past_key_0", {1, kDim})},
      [hooks](const Memory& memory) {
        hooks.on_prefix();
        for (int i = 0; i < kDim; ++i) {
          memory.find("past_key_0")->second[i] = 2.0F * memory.find("observation")->second[i];
        }
      });
}

inline std::unique_ptr<Engine> toy_denoise(Hooks hooks = {},
                                           std::vector<TensorInfo> more_inputs = {}) {
  std::vector inputs{floats("x_t", {1, kHorizon, kDim}), floats("t", {1, kHorizon}),
                     floats("past_key_0", {1, kDim})};
  inputs.insert(inputs.end(), more_inputs.begin(), more_inputs.end());
  return std::make_unique<FakeEngine>(
      inputs, std::vector{floats("x_next", {1, kHorizon, kDim}), floats("t_next", {1, kHorizon})},
      [hooks](const Memory& memory) {
        constexpr float kDt = -1.0F / kSteps;
        const float* x = memory.find("x_t")->second;
        const float* key = memory.find("past_key_0")->second;
        for (int i = 0; i < kHorizon * kDim; ++i) {
          memory.find("x_next")->second[i] = x[i] + kDt * (x[i] - key[i % kDim]);
        }
        for (int i = 0; i < kHorizon; ++i) {
          memory.find("t_next")->second[i] = memory.find("t")->second[i] + kDt;
        }
        hooks.on_step(memory);
      });
}

inline std::shared_ptr<FlowPolicy> toy_policy(const Hooks& hooks = {}) {
  return std::make_shared<FlowPolicy>(toy_prefix(hooks), toy_denoise(hooks), kSteps);
}

// What the policy gives for one value of noise and observation.
inline float toy_action(float noise, float observation) {
  constexpr float kDt = -1.0F / kSteps;
  float x = noise;
  for (int step = 0; step < kSteps; ++step) x = x + kDt * (x - 2.0F * observation);
  return x;
}

// The policy's inputs, for as long as it lives.
struct ToyInputs {
  std::vector<float> observation = {0.25F, -0.5F};
  std::vector<std::int64_t> shape = {1, kDim};
  std::vector<float> noise = std::vector<float>(kHorizon * kDim, 1.0F);

  [[nodiscard]] std::vector<TensorView> views() const {
    return {{"observation", DType::kFloat32, shape, observation.data()}};
  }
};

}  // namespace flux::test
