#include "flux/inference_worker.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>

#include "flux/clock.hpp"

namespace flux {
namespace {

constexpr int kEnd = -1;

}  // namespace

InferenceWorker::InferenceWorker(std::shared_ptr<Policy> policy, ActionDecoder decoder,
                                 bool has_thread)
    : policy_(std::move(policy)),
      decoder_(std::move(decoder)),
      staged_(policy_->user_inputs(), policy_->num_action_values()),
      normalised_(policy_->num_action_values()),
      state_(decoder_.action_dim()) {
  const auto network_dim = static_cast<std::size_t>(policy_->action_dim());
  if (decoder_.action_dim() > network_dim) {
    throw std::invalid_argument(expected_got(
        "decoder", "at most the policy's " + std::to_string(network_dim) + " action dimensions",
        std::to_string(decoder_.action_dim())));
  }
  chunk_.actions.resize(static_cast<std::size_t>(policy_->action_horizon()) *
                        decoder_.action_dim());
  if (has_thread) thread_ = std::thread([this] { serve(); });
}

InferenceWorker::~InferenceWorker() { stop(); }

void InferenceWorker::infer(std::span<const TensorView> inputs, std::span<const float> state,
                            std::span<const float> noise) {
  std::ranges::copy(state, state_.begin());
  run(inputs, noise);
  status_.store(Status::kReady, std::memory_order_release);
}

void InferenceWorker::request(std::span<const TensorView> inputs, std::span<const float> state,
                              std::span<const float> noise) {
  policy_->check(inputs, noise);
  staged_.copy(inputs, noise);
  std::ranges::copy(state, state_.begin());
  status_.store(Status::kBusy, std::memory_order_relaxed);
  const int next = requests_.load(std::memory_order_relaxed) % std::numeric_limits<int>::max() + 1;
  requests_.store(next, std::memory_order_release);
  requests_.notify_one();
}

void InferenceWorker::wait() const noexcept {
  status_.wait(Status::kBusy, std::memory_order_acquire);
}

void InferenceWorker::stop() noexcept {
  if (!thread_.joinable()) return;
  wait();
  requests_.store(kEnd, std::memory_order_release);
  requests_.notify_one();
  thread_.join();
}

void InferenceWorker::run(std::span<const TensorView> inputs, std::span<const float> noise) {
  const MonotonicClock clock;
  const std::int64_t begin_ns = clock.now_ns();
  policy_->infer(inputs, noise, normalised_, &histograms_);
  // The scheduler may have swapped in the memory of a submitted chunk of another length.
  chunk_.actions.resize(static_cast<std::size_t>(policy_->action_horizon()) *
                        decoder_.action_dim());
  decoder_.decode(normalised_, static_cast<std::size_t>(policy_->action_dim()), state_,
                  chunk_.actions);
  inference_s_ = to_seconds(clock.now_ns() - begin_ns);
}

void InferenceWorker::serve() noexcept {
  int served = 0;
  while (true) {
    requests_.wait(served, std::memory_order_acquire);
    served = requests_.load(std::memory_order_acquire);
    if (served == kEnd) return;
    Status outcome = Status::kReady;
    try {
      run(staged_.views(), staged_.noise());
    } catch (...) {
      error_ = std::current_exception();
      outcome = Status::kFailed;
    }
    status_.store(outcome, std::memory_order_release);
    status_.notify_all();
  }
}

}  // namespace flux
