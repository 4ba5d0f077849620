// A ControlLoop with the toy policy and with a clock that the test controls.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "flux/control_loop.hpp"
#include "toy_policy.hpp"

namespace flux::test {

inline constexpr double kControlHz = 50.0;
inline constexpr std::int64_t kPeriodNs = 20'000'000;

// A clock that advances only when it is slept on or advanced explicitly.
class SimulatedClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t now_ns() const noexcept override { return now_ns_.load(); }
  void sleep_until_ns(std::int64_t deadline_ns) noexcept override {
    if (deadline_ns > now_ns_.load()) now_ns_.store(deadline_ns);
  }
  void advance_ns(std::int64_t duration_ns) noexcept { now_ns_.fetch_add(duration_ns); }

 private:
  std::atomic<std::int64_t> now_ns_{0};
};

struct LoopRig {
  explicit LoopRig(ControlLoopConfig config, const Hooks& hooks = {})
      : LoopRig(config, toy_policy(hooks)) {}

  LoopRig(ControlLoopConfig config, std::shared_ptr<FlowPolicy> policy) {
    auto wall_owner = std::make_unique<SimulatedClock>();
    wall = wall_owner.get();
    const std::vector<double> far(kActionDim, 100.0);
    const std::vector<double> low(kActionDim, -100.0);
    const std::vector<double> fast(kActionDim, 1e6);
    const std::vector<float> ones(kActionDim, 1.0F);
    const std::vector<float> zeros(kActionDim, 0.0F);
    const std::vector<std::uint8_t> absolute(kActionDim, 0);
    config.control_hz = kControlHz;
    loop = std::make_unique<ControlLoop>(config, std::move(policy),
                                         ActionDecoder(ones, zeros, absolute),
                                         SafetyLimits(low, far, fast), std::move(wall_owner));
    loop->start(zeros);
  }

  // Submits noise whose rows are first + 0, first + 1, ...
  void submit(float first) {
    ToyInputs inputs;
    inputs.observation = {0.0F, 0.0F};
    for (int row = 0; row < kActionHorizon; ++row) {
      for (int i = 0; i < kActionDim; ++i) {
        inputs.noise[static_cast<std::size_t>(row * kActionDim + i)] =
            first + static_cast<float>(row);
      }
    }
    loop->submit(inputs.views(), std::vector<float>(kActionDim, 0.0F), inputs.noise);
  }

  // The row that the last command has in the chunk submitted with `first`; may be fractional.
  [[nodiscard]] float row(float first) const {
    return loop->command()[0] / toy_action(1.0F, 0.0F) - first;
  }

  std::uint32_t tick() {
    loop->wait_for_due_chunk();
    return loop->tick();
  }

  SimulatedClock* wall = nullptr;
  std::unique_ptr<ControlLoop> loop;
};

inline ControlLoopConfig sync_config(int execution_horizon) {
  return {.execution_horizon = execution_horizon};
}

inline ControlLoopConfig async_config(int execution_horizon, int inference_delay) {
  return {.execution_horizon = execution_horizon,
          .mode = Mode::kAsync,
          .inference_delay = inference_delay};
}

inline ControlLoopConfig rtc_config(int execution_horizon, int inference_delay,
                                    std::vector<int> delays = {0}) {
  return {.execution_horizon = execution_horizon,
          .mode = Mode::kRtc,
          .inference_delay = inference_delay,
          .continuation = {.delays = std::move(delays)}};
}

}  // namespace flux::test
