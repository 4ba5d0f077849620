#include "flux/control_loop.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>
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

// Of a chunk's rows, those that are executed while the next one is inferred.
int delay_rows(const ControlLoopConfig& config) noexcept {
  // A product like 20 * 0.05 may be a little above the whole number that is meant.
  return static_cast<int>(std::ceil(config.inference_delay * config.speed - 1e-9));
}

int action_horizon_of(const ControlLoopConfig& config, const Policy* policy) noexcept {
  return policy != nullptr ? policy->action_horizon()
                           : config.execution_horizon + delay_rows(config);
}

void check_execution_horizon(const ControlLoopConfig& config, const Policy* policy) {
  const int action_horizon = action_horizon_of(config, policy);
  if (config.execution_horizon >= 1 && config.execution_horizon <= action_horizon) return;
  throw std::invalid_argument(expected_got(
      "execution_horizon",
      policy != nullptr ? "1 to the policy's action_horizon " + std::to_string(action_horizon)
                        : std::string("at least 1"),
      std::to_string(config.execution_horizon)));
}

void require_delay(const ControlLoopConfig& config, int most, const std::string& why) {
  const int rows = delay_rows(config);
  if (config.inference_delay >= 0 && rows <= most) return;
  std::string got = std::to_string(config.inference_delay);
  if (config.speed != 1.0) got += " (" + std::to_string(rows) + " rows)";
  throw std::invalid_argument(
      expected_got("inference_delay", "0 to " + std::to_string(most) + " " + why, got));
}

void check_rtc(const ControlLoopConfig& config, const Policy* policy) {
  if (policy == nullptr || !policy->can_continue()) {
    throw std::invalid_argument(expected_got(
        "mode", "'sync', 'async' or 'ensemble'",
        std::string("'rtc' with ") +
            (policy == nullptr ? "no policy" : "a policy whose Euler steps cannot run singly")));
  }
  if (config.continuation.method == ContinuationMethod::kGuidance && !policy->can_guide()) {
    throw std::invalid_argument(
        expected_got("method", "'prefix'", "'guidance' with a policy that cannot be guided"));
  }
  check(config.continuation, policy->action_horizon());
  const int rows = delay_rows(config);
  if (config.inference_delay >= 0 &&
      usable_delay(config.continuation, rows, config.execution_horizon, policy->action_horizon()) >=
          0) {
    return;
  }
  throw std::invalid_argument(expected_got(
      "inference_delay",
      "a usable delay d <= execution_horizon " + std::to_string(config.execution_horizon) +
          " <= action_horizon " + std::to_string(policy->action_horizon()) + " - d",
      std::to_string(config.inference_delay) + " ticks, " + std::to_string(rows) + " rows"));
}

// A chunk that takes over d rows after its observation needs these d rows beside those that are
// executed, and the next observation is taken d rows before it ends.
void check_delay(const ControlLoopConfig& config, const Policy* policy) {
  const int execution_horizon = config.execution_horizon;
  const int action_horizon = action_horizon_of(config, policy);
  switch (config.mode) {
    case Mode::kSync:
      require_delay(config, std::numeric_limits<int>::max(), "ticks");
      return;
    case Mode::kAsync:
      require_delay(config, std::min(execution_horizon, action_horizon - execution_horizon),
                    "(the smaller of execution_horizon " + std::to_string(execution_horizon) +
                        " and action_horizon " + std::to_string(action_horizon) +
                        " - execution_horizon)");
      return;
    case Mode::kEnsemble:
      require_delay(config, action_horizon / 2,
                    "(half of action_horizon " + std::to_string(action_horizon) + ")");
      return;
    case Mode::kRtc:
      check_rtc(config, policy);
      return;
  }
}

void check_speed(double speed) {
  if (speed > 0.0 && speed <= 1.0) return;
  throw std::invalid_argument(
      expected_got("speed", "a number above 0 and at most 1", std::to_string(speed)));
}

ControlLoopConfig checked(const ControlLoopConfig& config, const Policy* policy,
                          const ActionDecoder& decoder, const SafetyLimits& limits) {
  check_dims(decoder, limits);
  check_speed(config.speed);
  check_execution_horizon(config, policy);
  check_delay(config, policy);
  require_at_least("stale_after_s", config.stale_after_s, 0.0);
  check(config.grippers, limits.action_dim());
  return config;
}

}  // namespace

ControlLoop::ControlLoop(const ControlLoopConfig& config, std::shared_ptr<Policy> policy,
                         const ActionDecoder& decoder, const SafetyLimits& limits,
                         std::unique_ptr<Clock> wall)
    : config_(checked(config, policy.get(), decoder, limits)),
      grippers_(config.grippers, limits.action_dim(), decoder.binary_mask()),
      filter_(limits, config.control_hz, decoder.binary_mask()),
      player_(limits.action_dim(),
              static_cast<std::size_t>(action_horizon_of(config, policy.get())),
              decoder.binary_mask()),
      asked_(limits.action_dim(), std::numeric_limits<float>::quiet_NaN()),
      wall_(std::move(wall)) {
  if (policy == nullptr) return;
  lead_ = delay_rows(config_);
  if (config_.mode == Mode::kSync) lead_ = 0;
  if (config_.mode == Mode::kRtc) {
    lead_ = usable_delay(config_.continuation, lead_, config_.execution_horizon,
                         policy->action_horizon());
    counts_.prefixes.resize(static_cast<std::size_t>(policy->action_horizon()) + 1);
  }
  worker_ = std::make_unique<InferenceWorker>(std::move(policy), decoder, config_.continuation,
                                              config_.mode != Mode::kSync);
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
  if (config_.mode == Mode::kEnsemble || config_.mode == Mode::kRtc) {
    // The coming tick's chunk begins now, so that its successor can be asked for at once.
    wait_for_due_chunk();
    take_inferred_chunk();
  }
  require_no_failure();
  const bool is_idle = !worker_ || worker_->status() == InferenceWorker::Status::kIdle;
  if (!is_idle || has_ready_chunk_) return false;
  return has_failed_ || wants_chunk();
}

bool ControlLoop::wants_chunk() const noexcept {
  if (!player_.has_row() || (worker_ && config_.mode == Mode::kEnsemble)) return true;
  // With slower ticks, one tick earlier rather than later.
  return player_.executed() + config_.speed > config_.execution_horizon - lead_;
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
  first_row_ = player_.next_row();
  if (config_.mode == Mode::kSync) {
    submit_now(inputs, state, noise);
    return;
  }
  const KnownRows known = known_rows();
  prefix_len_ = known.prefix_len;
  worker_->request(inputs, state, noise, known);
}

// Without rows to execute, as at the start and after a hold, there is nothing to continue. A row
// that is not finite cannot be continued: the whole chunk would not be finite either.
KnownRows ControlLoop::known_rows() const noexcept {
  if (config_.mode != Mode::kRtc || !player_.has_row()) return {};
  const std::span<const float> rows = player_.remaining();
  const bool is_enough = rows.size() >= static_cast<std::size_t>(lead_) * action_dim();
  const bool is_finite = std::ranges::all_of(rows, [](float v) { return std::isfinite(v); });
  if (!is_enough || !is_finite) return {};
  return {.rows = rows, .prefix_len = lead_};
}

void ControlLoop::submit_now(std::span<const TensorView> inputs, std::span<const float> state,
                             std::span<const float> noise) {
  const std::int64_t begin_ns = wall_->now_ns();
  try {
    worker_->infer(inputs, state, noise);
  } catch (...) {
    fail();
    throw;
  }
  // With a delay, the inference has that long.
  if (config_.inference_delay == 0) submit_s_ = to_seconds(wall_->now_ns() - begin_ns);
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
  player_.reserve(rows);
  ready_chunk_.assign(actions.begin(), actions.end());
  has_ready_chunk_ = true;
}

void ControlLoop::wait_for_due_chunk() noexcept {
  if (index() >= due_tick_) wait_for_inference();
}

void ControlLoop::wait_for_inference() noexcept {
  if (worker_) worker_->wait();
}

std::uint32_t ControlLoop::tick() noexcept {
  const std::int64_t begin_ns = wall_->now_ns();
  if (has_ready_chunk_) {
    take_ready_chunk();
  } else {
    take_inferred_chunk();
  }
  std::uint32_t flags = move();
  if (is_new_chunk_) flags |= kNewChunk;
  is_new_chunk_ = false;
  count(flags);
  jitter_.record(0.0);
  const double tick_s = to_seconds(wall_->now_ns() - begin_ns);
  tick_times_.record(tick_s);
  count_miss(tick_s);
  return flags;
}

void ControlLoop::take_ready_chunk() noexcept {
  chunk_tick_ = index();
  player_.clear();  // nothing of it is left to be executed
  first_row_ = player_.next_row();
  begin(ready_chunk_);
  has_ready_chunk_ = false;
}

void ControlLoop::take_inferred_chunk() noexcept {
  if (!worker_ || index() < due_tick_) return;
  const InferenceWorker::Status status = worker_->status();
  if (status == InferenceWorker::Status::kFailed) fail();
  if (status != InferenceWorker::Status::kReady) return;
  if (config_.mode == Mode::kSync) {
    player_.clear();  // the robot has stood, so that the chunk begins with its first row
    first_row_ = player_.next_row();
  }
  // Between two rows, the robot first goes on to the one that the chunk begins with.
  if (!player_.has_reached(first_row_)) return;
  if (config_.mode != Mode::kSync || config_.inference_delay > 0) {
    const double budget_s = std::max(config_.inference_delay, 1) * period_s();
    if (worker_->inference_s() > budget_s) is_late_ = true;
  }
  if (config_.mode == Mode::kRtc) ++counts_.prefixes[static_cast<std::size_t>(prefix_len_)];
  if (config_.mode == Mode::kRtc) join(worker_->actions());
  chunk_tick_ = observed_tick_;
  begin(worker_->actions());
  worker_->release();
}

// Known rows stay as they are, without the rounding of normalising them and back. Those that
// guidance has only approached fade into the running chunk's.
void ControlLoop::join(std::span<float> rows) const noexcept {
  if (config_.continuation.method == ContinuationMethod::kPrefix) {
    player_.fade(rows, first_row_, prefix_len_, 0);
    return;
  }
  const auto executed = static_cast<std::int64_t>(std::ceil(player_.rows_since(first_row_)));
  player_.fade(rows, first_row_, executed, std::max<std::int64_t>(prefix_len_ - executed, 0));
}

void ControlLoop::begin(std::vector<float>& rows) noexcept {
  if (config_.mode == Mode::kEnsemble) {
    player_.merge(rows, first_row_);
  } else {
    player_.begin(rows, first_row_);
  }
  has_failed_ = false;
  is_new_chunk_ = true;
  ++counts_.chunks;
}

void ControlLoop::fail() noexcept {
  has_failed_ = true;
  player_.clear();
}

bool ControlLoop::is_waiting() const noexcept {
  return config_.mode == Mode::kSync && worker_ &&
         worker_->status() == InferenceWorker::Status::kReady;
}

std::uint32_t ControlLoop::move() noexcept {
  std::ranges::fill(asked_, std::numeric_limits<float>::quiet_NaN());
  std::uint32_t flags = kHeld;
  if (is_started_ && !is_stopped_ && !has_failed_ && !is_waiting() && player_.has_chunk()) {
    if (is_stale()) {
      flags |= kStale;
    } else if (player_.has_row()) {
      const ChunkPlayer::Look look = grippers_.applied(player_.look(config_.speed));
      std::ranges::copy(look.action, asked_.begin());
      const std::uint32_t moved = filter_.apply(look.action, look.preview, period_s());
      player_.advance(config_.speed);
      return moved;
    }
  }
  filter_.hold();
  return flags;
}

bool ControlLoop::is_stale() const noexcept {
  const auto age = static_cast<double>(index() - chunk_tick_);
  const double duration = static_cast<double>(player_.num_rows()) / config_.speed;
  return (age - duration) * period_s() > config_.stale_after_s;
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
