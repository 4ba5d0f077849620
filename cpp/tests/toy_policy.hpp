// A FlowPolicy over two engines written in C++, small enough to calculate by hand.
//
// prefix:  past_key_0 (1, A) = 2 * observation (1, A)
// denoise: x_next = x_t + dt * (x_t - past_key_0), t_next = t + dt
#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "fake_device.hpp"
#include "flux/flow_policy.hpp"

namespace flux::test {

using Memory = std::map<std::string, float*, std::less<>>;

struct Graph {
  std::vector<TensorInfo> inputs;
  std::vector<TensorInfo> outputs;
  std::function<void(const Memory&)> compute;
};

class FakeEngine final : public Engine {
 public:
  explicit FakeEngine(Graph graph) : graph_(std::move(graph)) {}

  [[nodiscard]] std::span<const TensorInfo> inputs() const noexcept override {
    return graph_.inputs;
  }
  [[nodiscard]] std::span<const TensorInfo> outputs() const noexcept override {
    return graph_.outputs;
  }

  [[nodiscard]] std::size_t bind(std::span<const BoundBuffer> buffers) override {
    Memory memory;
    for (const BoundBuffer& buffer : buffers) {
      const TensorMemory place = require_memory(buffers, buffer.name, "fake", false);
      memory.emplace(buffer.name, static_cast<float*>(place.data));
    }
    bindings_.push_back(std::move(memory));
    return bindings_.size() - 1;
  }

  void run(std::size_t binding) override { graph_.compute(bindings_[binding]); }

 private:
  Graph graph_;
  std::vector<Memory> bindings_;
};

// A FakeEngine on a device; it reads host inputs only when they are uploaded.
class FakeDeviceEngine final : public Engine {
 public:
  struct Transfers {
    int to_device = 0;
    int to_host = 0;
  };

  FakeDeviceEngine(std::shared_ptr<FakeDevice> device, std::unique_ptr<FakeEngine> graph,
                   std::shared_ptr<Transfers> transfers)
      : device_(std::move(device)), graph_(std::move(graph)), transfers_(std::move(transfers)) {}

  [[nodiscard]] std::span<const TensorInfo> inputs() const noexcept override {
    return graph_->inputs();
  }
  [[nodiscard]] std::span<const TensorInfo> outputs() const noexcept override {
    return graph_->outputs();
  }
  [[nodiscard]] TensorMemory allocate(std::size_t num_bytes) override {
    return {.data = device_->allocate(num_bytes), .is_on_device = true};
  }

  [[nodiscard]] std::size_t bind(std::span<const BoundBuffer> buffers) override {
    std::vector<BoundBuffer> bound;
    Binding& binding = bindings_.emplace_back();
    const auto place = [&](const TensorInfo& info, std::vector<Copy>& copies) {
      const TensorMemory memory = require_memory(buffers, info.name, "fake device", true);
      void* address = memory.is_on_device ? memory.data : device_->allocate(info.num_bytes());
      float* values = device_->values(address);
      if (!memory.is_on_device) {
        std::fill_n(values, info.num_elements(), std::nanf(""));
        copies.push_back({static_cast<float*>(memory.data), values, info.num_elements()});
      }
      bound.push_back({info.name, {.data = values}});
    };
    for (const TensorInfo& info : inputs()) place(info, binding.uploads);
    for (const TensorInfo& info : outputs()) place(info, binding.downloads);
    return graph_->bind(bound);
  }

  void upload(std::size_t binding) override {
    for (const Copy& copy : bindings_[binding].uploads) {
      std::copy_n(copy.host, copy.count, copy.device);
      ++transfers_->to_device;
    }
  }

  void run(std::size_t binding) override {
    graph_->run(binding);
    for (const Copy& copy : bindings_[binding].downloads) {
      std::copy_n(copy.device, copy.count, copy.host);
      ++transfers_->to_host;
    }
  }

 private:
  struct Copy {
    float* host;
    float* device;
    std::size_t count;
  };
  struct Binding {
    std::vector<Copy> uploads;
    std::vector<Copy> downloads;
  };

  std::shared_ptr<FakeDevice> device_;
  std::unique_ptr<FakeEngine> graph_;
  std::shared_ptr<Transfers> transfers_;
  std::vector<Binding> bindings_;
};

inline constexpr int kActionHorizon = 6;
inline constexpr int kActionDim = 2;
inline constexpr int kNumInferenceSteps = 4;

struct Hooks {
  std::function<void()> on_prefix = [] {};
  std::function<void(const Memory&)> on_step = [](const Memory&) {};
};

inline TensorInfo floats(std::string name, std::vector<std::int64_t> shape) {
  return {.name = std::move(name), .dtype = DType::kFloat32, .shape = std::move(shape)};
}

inline Graph toy_prefix_graph(const Hooks& hooks = {}) {
  return {.inputs = {floats("observation", {1, kActionDim})},
          .outputs = {floats("past_key_0", {1, kActionDim})},
          .compute = [hooks](const Memory& memory) {
            hooks.on_prefix();
            for (int i = 0; i < kActionDim; ++i) {
              memory.find("past_key_0")->second[i] = 2.0F * memory.find("observation")->second[i];
            }
          }};
}

inline Graph toy_denoise_graph(const Hooks& hooks = {}, std::vector<TensorInfo> more_inputs = {},
                               int num_inference_steps = kNumInferenceSteps) {
  std::vector inputs{floats("x_t", {1, kActionHorizon, kActionDim}),
                     floats("t", {1, kActionHorizon}), floats("past_key_0", {1, kActionDim})};
  inputs.insert(inputs.end(), more_inputs.begin(), more_inputs.end());
  return {.inputs = std::move(inputs),
          .outputs = {floats("x_next", {1, kActionHorizon, kActionDim}),
                      floats("t_next", {1, kActionHorizon})},
          .compute = [hooks,
                      dt = -1.0F / static_cast<float>(num_inference_steps)](const Memory& memory) {
            const float* x = memory.find("x_t")->second;
            const float* key = memory.find("past_key_0")->second;
            for (int i = 0; i < kActionHorizon * kActionDim; ++i) {
              memory.find("x_next")->second[i] = x[i] + dt * (x[i] - key[i % kActionDim]);
            }
            for (int i = 0; i < kActionHorizon; ++i) {
              memory.find("t_next")->second[i] = memory.find("t")->second[i] + dt;
            }
            hooks.on_step(memory);
          }};
}

inline std::unique_ptr<FakeEngine> toy_prefix(const Hooks& hooks = {}) {
  return std::make_unique<FakeEngine>(toy_prefix_graph(hooks));
}

inline std::unique_ptr<FakeEngine> toy_denoise(const Hooks& hooks = {},
                                               std::vector<TensorInfo> more_inputs = {},
                                               int num_inference_steps = kNumInferenceSteps) {
  return std::make_unique<FakeEngine>(
      toy_denoise_graph(hooks, std::move(more_inputs), num_inference_steps));
}

inline std::shared_ptr<FlowPolicy> toy_policy(const Hooks& hooks = {},
                                              int num_inference_steps = kNumInferenceSteps) {
  return std::make_shared<FlowPolicy>(
      toy_prefix(hooks), toy_denoise(hooks, {}, num_inference_steps), num_inference_steps);
}

// The policy's action for one value of noise and observation.
inline float toy_action(float noise, float observation,
                        int num_inference_steps = kNumInferenceSteps) {
  const float dt = -1.0F / static_cast<float>(num_inference_steps);
  float x = noise;
  for (int step = 0; step < num_inference_steps; ++step) x = x + dt * (x - 2.0F * observation);
  return x;
}

// The memory of the policy's inputs; must outlive their views.
struct ToyInputs {
  std::vector<float> observation = {0.25F, -0.5F};
  std::vector<std::int64_t> shape = {1, kActionDim};
  std::vector<float> noise = std::vector<float>(kActionHorizon * kActionDim, 1.0F);

  [[nodiscard]] std::vector<TensorView> views() const {
    return {{"observation", DType::kFloat32, shape, observation.data()}};
  }
};

}  // namespace flux::test
