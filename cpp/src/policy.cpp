#include "flux/policy.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

#include "flux/clock.hpp"

namespace flux {

StageTimer::StageTimer() noexcept : begin_ns_(MonotonicClock().now_ns()) {}

void StageTimer::record(Histogram FlowHistograms::* stage, FlowHistograms& first,
                        FlowHistograms* second) const noexcept {
  const double duration_s = to_seconds(MonotonicClock().now_ns() - begin_ns_);
  (first.*stage).record(duration_s);
  if (second != nullptr) (second->*stage).record(duration_s);
}

StagedInputs::StagedInputs(std::span<const TensorInfo> infos, std::size_t num_noise)
    : infos_(infos.begin(), infos.end()), noise_(num_noise) {
  for (const TensorInfo& info : infos_) {
    const Buffer& buffer = buffers_.emplace_back(info.num_bytes());
    views_.push_back({info.name, info.dtype, info.shape, buffer.data()});
  }
}

void StagedInputs::copy(std::span<const TensorView> inputs, std::span<const float> noise) noexcept {
  for (std::size_t i = 0; i < infos_.size(); ++i) {
    const auto found = std::ranges::find(inputs, infos_[i].name, &TensorView::name);
    std::memcpy(buffers_[i].data(), found->data, buffers_[i].num_bytes());
  }
  std::ranges::copy(noise, noise_.begin());
}

std::size_t Policy::num_action_values() const noexcept {
  return static_cast<std::size_t>(action_horizon_) * static_cast<std::size_t>(action_dim_);
}

void Policy::set_action_shape(int action_horizon, int action_dim) noexcept {
  action_horizon_ = action_horizon;
  action_dim_ = action_dim;
}

void Policy::check(std::span<const TensorView> inputs, std::span<const float> noise) const {
  for (const TensorView& view : inputs) {
    if (std::ranges::find(user_inputs_, view.name, &TensorInfo::name) == user_inputs_.end()) {
      std::string names;
      for (const TensorInfo& info : user_inputs_) names += (names.empty() ? "" : ", ") + info.name;
      throw std::invalid_argument(
          expected_got(view.name, "one of the inputs " + names, "an unknown name"));
    }
  }
  for (const TensorInfo& info : user_inputs_) {
    const auto view = std::ranges::find(inputs, info.name, &TensorView::name);
    if (view == inputs.end()) {
      throw std::invalid_argument(expected_got(info.name, describe(info), "no such input"));
    }
    if (view->dtype != info.dtype || !std::ranges::equal(view->shape, info.shape)) {
      throw std::invalid_argument(
          expected_got(info.name, describe(info), describe(view->dtype, view->shape)));
    }
  }
  if (noise.size() != num_action_values()) {
    throw std::invalid_argument(expected_got(
        "noise", std::to_string(num_action_values()) + " values", std::to_string(noise.size())));
  }
}

void Policy::check(const Continuation& continuation) const {
  if (!can_continue()) {
    throw std::invalid_argument(expected_got(
        "continuation", "a policy whose Euler steps run one by one",
        "one that is captured as a single launch. Use another engine, or a mode other than rtc"));
  }
  if (continuation.settings->method == ContinuationMethod::kGuidance && !can_guide()) {
    throw std::invalid_argument(expected_got(
        "continuation", "method prefix, because the Euler steps are captured as a single launch",
        "method guidance. Use another engine, or a mode other than rtc"));
  }
  const std::size_t width = static_cast<std::size_t>(action_dim_);
  const std::size_t rows = continuation.previous.size() / width;
  if (continuation.previous.size() % width != 0 ||
      rows > static_cast<std::size_t>(action_horizon_)) {
    throw std::invalid_argument(expected_got(
        "previous",
        "at most " + std::to_string(action_horizon_) + " rows of " + std::to_string(width),
        std::to_string(continuation.previous.size()) + " values"));
  }
  if (static_cast<std::size_t>(continuation.prefix_len) > rows) {
    throw std::invalid_argument(expected_got(
        "prefix_len", "at most " + std::to_string(rows) + " (the rows left of the running chunk)",
        std::to_string(continuation.prefix_len)));
  }
  if (!takes(*continuation.settings, continuation.prefix_len)) {
    throw std::invalid_argument(expected_got(
        "prefix_len",
        "a delay that the policy was trained with (" + delays_text(*continuation.settings) + ")",
        std::to_string(continuation.prefix_len)));
  }
}

void Policy::infer(std::span<const TensorView> inputs, std::span<const float> noise,
                   std::span<float> actions, FlowHistograms* also, const std::atomic<bool>* cancel,
                   const Continuation* continuation) {
  check(inputs, noise);
  if (actions.size() != num_action_values()) {
    throw std::invalid_argument(expected_got("actions",
                                             std::to_string(num_action_values()) + " values",
                                             std::to_string(actions.size())));
  }
  if (continuation != nullptr && continuation->prefix_len <= 0) continuation = nullptr;
  if (continuation != nullptr) check(*continuation);
  const std::lock_guard lock(mutex_);
  const StageTimer whole;
  compute(inputs, noise, actions, also, cancel, continuation);
  whole.record(&FlowHistograms::inference, histograms_, also);
}

}  // namespace flux
