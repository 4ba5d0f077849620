#include "flux/control_loop.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "flux/tensor.hpp"

namespace flux {
namespace {

void require_at_least(const char* name, double value, double lowest) {
  // Written so that a NaN fails.
  if (std::isfinite(value) && value >= lowest) return;
  throw std::invalid_argument(expected_got(
      name, "a finite number of at least " + std::to_string(lowest), std::to_string(value)));
}

void check_dims(const ActionDecoder& decoder, const SafetyLimits& limits) {
  if (decoder.action_dim() == limits.action_dim()) return;
  throw std::invalid_argument(expected_got(
      "limits", "the decoder's " + std::to_string(decoder.action_dim()) + " action dimensions",
      std::to_string(limits.action_dim())));
}

// With inference delay d, execution horizon s and action horizon H: d <= s <= H - d. A chunk that
// takes over d ticks after its observation and is executed for s ticks needs d + s rows, and the
// next observation is taken d ticks before the chunk ends.
void check_horizons(const ControlLoopConfig& config, const Policy* policy) {
  const int execution_horizon = config.execution_horizon;
  const int inference_delay = config.inference_delay;
  const int action_horizon =
      policy != nullptr ? policy->action_horizon() : execution_horizon + inference_delay;
  if (execution_horizon < 1 || execution_horizon > action_horizon) {
    throw std::invalid_argument(expected_got(
        "execution_horizon",
        policy != nullptr ? "1 to the policy's action_horizon " + std::to_string(action_horizon)
                          : std::string("at least 1"),
        std::to_string(execution_horizon)));
  }
  const int max_delay = std::min(execution_horizon, action_horizon - execution_horizon);
  if (inference_delay < 0 || inference_delay > max_delay) {
    throw std::invalid_argument(
        expected_got("inference_delay",
                     "0 to " + std::to_string(max_delay) + " (the smaller of execution_horizon " +
                         std::to_string(execution_horizon) + " and action_horizon " +
                         std::to_string(action_horizon) + " - execution_horizon)",
                     std::to_string(inference_delay)));
  }
  if (inference_delay > 0 && config.mode != Mode::kAsync) {
    throw std::invalid_argument(
        expected_got("inference_delay", "0",
                     std::to_string(inference_delay) + ". Only mode 'async' takes a delay."));
  }
}

ControlLoopConfig checked(const ControlLoopConfig& config, const Policy* policy,
                          const ActionDecoder& decoder, const SafetyLimits& limits) {
  check_dims(decoder, limits);
  check_horizons(config, policy);
  require_at_least("stale_after_s", config.stale_after_s, 0.0);
  return config;
}

}  // namespace

ControlLoop::ControlLoop(const ControlLoopConfig& config, std::shared_ptr<Policy> policy,
                         const ActionDecoder& decoder, const SafetyLimits& limits,
                         std::unique_ptr<Clock> wall)
    : config_(checked(config, policy.get(), decoder, limits)),
      filter_(limits, config.control_hz),
      scheduler_(limits.action_dim(), config.execution_horizon),
      wall_(std::move(wall)) {
  if (policy == nullptr) return;
  scheduler_.set_lead(config.inference_delay);
  worker_ =
      std::make_unique<InferenceWorker>(std::move(policy), decoder, config.mode == Mode::kAsync);
}

const Policy* ControlLoop::policy() const noexcept {
  return worker_ ? &worker_->policy() : nullptr;
}

const FlowHistograms* ControlLoop::inference_times() const noexcept {
  return worker_ ? &worker_->histograms() : nullptr;
}

double ControlLoop::period_s() const noexcept { return 1.0 / config_.control_hz; }

std::int64_t ControlLoop::index() const noexcept {
  return static_cast<std::int64_t>(counts_.ticks);
}

void ControlLoop::start(std::span<const float> command) {
  if (is_started_) {
    throw std::logic_error(expected_got("start", "a loop that has not started", "a started one"));
  }
  if (command.size() != action_dim()) {
    throw std::invalid_argument(expected_got("command", std::to_string(action_dim()) + " values",
                                             std::to_string(command.size())));
  }
  for (std::size_t i = 0; i < command.size(); ++i) {
    if (!std::isfinite(command[i])) {
      throw std::invalid_argument(expected_got("command[" + std::to_string(i) + "]",
                                               "a finite number", std::to_string(command[i])));
    }
  }
  filter_.reset(command);
  is_started_ = true;
}

void ControlLoop::require_running(const char* call) const {
  if (!is_started_) {
    throw std::logic_error(
        expected_got(call, "a started loop", "one that has not started. Call start() first."));
  }
  if (is_stopped_) throw std::logic_error(expected_got(call, "a running loop", "a stopped one"));
}

void ControlLoop::require_no_failure() {
  if (!worker_ || worker_->status() != InferenceWorker::Status::kFailed) return;
  // The failure is reported at the tick at which the chunk was due, however fast the machine is.
  if (!has_failed_) return;
  has_failed_ = true;
  const std::exception_ptr error = worker_->error();
  worker_->release();
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& cause) {
    throw std::runtime_error(std::string("inference failed: ") + cause.what());
  } catch (...) {
    throw std::runtime_error("inference failed: an unknown exception");
  }
}

bool ControlLoop::needs_observation() {
  require_running("needs_observation");
  require_no_failure();
  const bool is_idle = !worker_ || worker_->status() == InferenceWorker::Status::kIdle;
  if (!is_idle || has_ready_chunk_) return false;
  return has_failed_ || scheduler_.wants_chunk(index());
}

void ControlLoop::submit(std::span<const TensorView> inputs, std::span<const float> state,
                         std::span<const float> noise) {
  require_running("submit");
  if (!worker_) {
    throw std::logic_error(
        expected_got("submit", "a loop with a policy", "one without. Use submit_chunk()."));
  }
  require_no_failure();
  if (worker_->status() != InferenceWorker::Status::kIdle) {
    throw std::logic_error(
        expected_got("submit", "no pending chunk", "one. Call needs_observation() first."));
  }
  if (state.size() != action_dim()) {
    throw std::invalid_argument(expected_got("state", std::to_string(action_dim()) + " values",
                                             std::to_string(state.size())));
  }
  worker_->policy().check(inputs, noise);
  observed_tick_ = index();
  due_tick_ = index() + config_.inference_delay;
  if (config_.mode == Mode::kAsync) {
    worker_->request(inputs, state, noise);
  } else {
    submit_now(inputs, state, noise);
  }
}

void ControlLoop::submit_now(std::span<const TensorView> inputs, std::span<const float> state,
                             std::span<const float> noise) {
  const std::int64_t begin_ns = wall_->now_ns();
  try {
    worker_->infer(inputs, state, noise);
  } catch (...) {
    has_failed_ = true;
    throw;
  }
  submit_s_ = to_seconds(wall_->now_ns() - begin_ns);
}

void ControlLoop::submit_chunk(std::span<const float> actions) {
  require_running("submit_chunk");
  const std::size_t rows = actions.size() / action_dim();
  const auto fewest = static_cast<std::size_t>(config_.execution_horizon);
  if (actions.size() % action_dim() != 0 || rows < fewest) {
    throw std::invalid_argument(expected_got("actions",
                                             "(H, " + std::to_string(action_dim()) +
                                                 ") with H of at least execution_horizon " +
                                                 std::to_string(fewest),
                                             std::to_string(actions.size()) + " values"));
  }
  ready_chunk_.actions.assign(actions.begin(), actions.end());
  has_ready_chunk_ = true;
}

void ControlLoop::wait_for_due_chunk() noexcept {
  if (config_.mode == Mode::kAsync && index() >= due_tick_) wait_for_inference();
}

void ControlLoop::wait_for_inference() noexcept {
  if (worker_) worker_->wait();
}

std::uint32_t ControlLoop::tick() noexcept {
  const std::int64_t begin_ns = wall_->now_ns();
  is_new_chunk_ = false;
  take_chunk();
  std::uint32_t flags = move();
  if (is_new_chunk_) flags |= kNewChunk;
  count(flags);
  jitter_.record(0.0);
  const double tick_s = to_seconds(wall_->now_ns() - begin_ns);
  tick_times_.record(tick_s);
  count_miss(tick_s);
  return flags;
}

void ControlLoop::take_chunk() noexcept {
  if (has_ready_chunk_) {
    ready_chunk_.first_tick = index();
    activate(ready_chunk_);
    has_ready_chunk_ = false;
    return;
  }
  if (!worker_ || index() < due_tick_) return;
  const InferenceWorker::Status status = worker_->status();
  if (status == InferenceWorker::Status::kFailed) has_failed_ = true;
  if (status != InferenceWorker::Status::kReady) return;
  Chunk& chunk = worker_->chunk();
  chunk.first_tick = observed_tick_;
  if (config_.mode == Mode::kAsync) {
    const double budget_s = std::max(config_.inference_delay, 1) * period_s();
    if (worker_->inference_s() > budget_s) is_late_ = true;
  }
  activate(chunk);
  worker_->release();
}

void ControlLoop::activate(Chunk& chunk) noexcept {
  scheduler_.activate(chunk, index());
  has_failed_ = false;
  is_new_chunk_ = true;
  ++counts_.chunks;
}

std::uint32_t ControlLoop::move() noexcept {
  std::uint32_t flags = kHeld;
  if (is_started_ && !is_stopped_ && !has_failed_ && scheduler_.has_chunk()) {
    const std::span<const float> action = scheduler_.action(index());
    if (is_stale()) {
      flags |= kStale;
    } else if (!action.empty()) {
      return filter_.apply(action, scheduler_.preview(index()), period_s());
    }
  }
  filter_.hold();
  return flags;
}

bool ControlLoop::is_stale() const noexcept {
  // In ticks since the one that the chunk's first row is for.
  const std::int64_t age = index() - scheduler_.chunk().first_tick;
  const double left_s = static_cast<double>(age - scheduler_.num_rows()) * period_s();
  return left_s > config_.stale_after_s;
}

void ControlLoop::count(std::uint32_t flags) noexcept {
  const auto has = [flags](TickFlag flag) -> std::uint64_t { return (flags & flag) != 0 ? 1 : 0; };
  counts_.ticks += 1;
  counts_.held_ticks += has(kHeld);
  counts_.non_finite += has(kNonFinite);
  counts_.position += has(kClippedPosition);
  counts_.velocity += has(kClippedVelocity);
  counts_.stale += has(kStale);
}

void ControlLoop::count_miss(double tick_s) noexcept {
  if (is_late_ || submit_s_ + tick_s > period_s()) ++counts_.deadline_misses;
  is_late_ = false;
  submit_s_ = 0.0;
}

void ControlLoop::stop() noexcept {
  if (worker_) worker_->stop();
  is_stopped_ = true;
}

}  // namespace flux
