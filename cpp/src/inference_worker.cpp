#include "flux/inference_worker.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "flux/clock.hpp"

namespace flux {
namespace {

constexpr int kEnd = -1;

}  // namespace

InferenceWorker::InferenceWorker(std::shared_ptr<Policy> policy, const ActionDecoder& decoder,
                                 const ContinuationSettings& continuation, bool has_thread)
    : policy_(std::move(policy), decoder, continuation),
      staged_(this->policy().user_inputs(), this->policy().num_action_values()),
      state_(policy_.action_dim()),
      known_(policy_.action_horizon() * policy_.action_dim()),
      actions_(known_.size()) {
  if (has_thread) thread_ = std::thread([this] { serve(); });
}

InferenceWorker::~InferenceWorker() { stop(); }

void InferenceWorker::infer(std::span<const TensorView> inputs, std::span<const float> state,
                            std::span<const float> noise) {
  std::ranges::copy(state, state_.begin());
  staged_known_ = {};
  run(inputs, noise);
  status_.store(Status::kReady, std::memory_order_release);
}

void InferenceWorker::request(std::span<const TensorView> inputs, std::span<const float> state,
                              std::span<const float> noise, const KnownRows& known) {
  policy().check(inputs, noise);
  staged_.copy(inputs, noise);
  std::ranges::copy(state, state_.begin());
  const std::size_t num_known = std::min(known.rows.size(), known_.size());
  std::ranges::copy(known.rows.first(num_known), known_.begin());
  staged_known_ = {.rows = std::span(known_).first(num_known), .prefix_len = known.prefix_len};
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
  // The requester may have swapped in the memory of a chunk of another length.
  actions_.resize(known_.size());
  policy_.infer(inputs, state_, noise, staged_known_, actions_, &histograms_);
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
