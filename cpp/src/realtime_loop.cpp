#include "flux/realtime_loop.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <future>
#include <stdexcept>
#include <utility>

#include "flux/clock.hpp"
#include "flux/stop_signals.hpp"
#include "flux/tensor.hpp"

namespace flux {
namespace {

constexpr std::int64_t kPollNs = 1'000'000;
// Refuses a policy that cannot continue the running chunk, or not for as long as an inference
// takes.
RealtimeSettings checked_for(const RealtimeSettings& settings, const Policy* policy,
                             const RobotLink& link) {
  RealtimeSettings result = checked(settings, link);
  if (policy == nullptr || settings.mode != Mode::kRtc) return result;
  (void)first_delay(settings, policy->action_horizon());
  return result;
}

// Asks until `is_done` or until the time is over; returns the last answer.
template <typename Question>
bool poll(double timeout_s, Question is_done) {
  MonotonicClock clock;
  const std::int64_t end_ns =
      clock.now_ns() + static_cast<std::int64_t>(std::clamp(timeout_s, 0.0, 1e8) * 1e9);
  while (true) {
    if (is_done()) return true;
    const std::int64_t now_ns = clock.now_ns();
    if (now_ns >= end_ns) return false;
    clock.sleep_until_ns(std::min(now_ns + kPollNs, end_ns));
  }
}

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

}  // namespace

RealtimeLoop::RealtimeLoop(const RealtimeSettings& settings, std::shared_ptr<Policy> policy,
                           const ActionDecoder& decoder, const SafetyLimits& limits,
                           std::shared_ptr<RobotLink> link, bool watches_signals)
    : settings_(checked_for(settings, policy.get(), *link)),
      limits_(limits),
      inference_(std::make_shared<ChunkInference>(
          policy, decoder,
          std::make_shared<ChunkMailbox>(
              link->action_dim(),
              max_chunk_rows(settings_, policy != nullptr ? policy->action_horizon() : 0),
              decoder.binary_mask()),
          settings_.execution_horizon, settings_.continuation)),
      core_(settings_, limits, std::move(link), inference_->shared_mailbox(),
            watches_signals ? &StopSignals::first() : nullptr) {
  std::promise<Scheduling> scheduled;
  std::future<Scheduling> result = scheduled.get_future();
  thread_ = std::thread([this, &scheduled] {
    scheduled.set_value(schedule_this_thread(settings_.scheduling, core_.memory()));
    run();
  });
  scheduling_ = result.get();
}

RealtimeLoop::~RealtimeLoop() { close(); }

bool RealtimeLoop::has_session() const noexcept {
  const LoopPhase phase = core_.status().phase;
  return phase != LoopPhase::kIdle && phase != LoopPhase::kStopped;
}

void RealtimeLoop::run() noexcept {
  MonotonicClock clock;
  const std::int64_t period_ns = settings_.period_ns();
  std::int64_t deadline_ns = clock.now_ns();
  while (!is_closing_.load(std::memory_order_acquire) || has_session()) {
    clock.sleep_until_ns(deadline_ns);
    const std::int64_t now_ns = clock.now_ns();
    answer_start(now_ns);
    core_.tick(deadline_ns, now_ns);
    const std::int64_t end_ns = clock.now_ns();
    if (has_session()) tick_times_.record(to_seconds(end_ns - now_ns));
    // Ticks that have passed are skipped, not caught up with.
    const std::int64_t passed = std::max<std::int64_t>(end_ns - deadline_ns, 0) / period_ns;
    deadline_ns += (passed + 1) * period_ns;
  }
  core_.close();
}

void RealtimeLoop::answer_start(std::int64_t now_ns) noexcept {
  if (start_state_.load(std::memory_order_acquire) != StartState::kAsked) return;
  core_.set_max_ticks(start_max_ticks_);
  core_.set_slow_start(start_is_slow_);
  core_.set_mode(start_mode_);
  start_cause_ = core_.start(start_session_, is_return_confirmed_, now_ns);
  if (start_cause_.fault == Fault::kNone) tick_times_.reset();
  start_state_.store(StartState::kDone, std::memory_order_release);
}

void RealtimeLoop::start(std::uint64_t session, bool is_return_confirmed, std::uint64_t max_ticks,
                         bool is_slow, std::optional<Mode> mode) {
  const std::lock_guard lock(callers_);
  if (session == 0) throw std::invalid_argument(expected_got("session", "at least 1", "0"));
  if (mode == Mode::kRtc && settings_.mode != Mode::kRtc) {
    throw std::invalid_argument(
        expected_got("mode", "'sync', 'async' or 'ensemble'", "'rtc', which was not prepared"));
  }
  if (is_closing_) throw std::logic_error(expected_got("start", "an open loop", "a closed one"));
  if (has_session()) {
    throw std::logic_error(expected_got("start", "a loop without a session", "a running one"));
  }
  {
    const std::lock_guard text(reason_mutex_);
    operator_reason_.clear();
  }
  start_session_ = session;
  is_return_confirmed_ = is_return_confirmed;
  start_max_ticks_ = max_ticks;
  start_is_slow_ = is_slow;
  start_mode_ = mode.value_or(settings_.mode);
  start_state_.store(StartState::kAsked, std::memory_order_release);
  while (!poll(
      1.0, [this] { return start_state_.load(std::memory_order_acquire) == StartState::kDone; })) {
  }
  start_state_.store(StartState::kNone, std::memory_order_relaxed);
  if (start_cause_.fault != Fault::kNone) refuse_start(start_cause_);
}

void RealtimeLoop::refuse_start(const Cause& cause) const {
  const bool is_pose =
      cause.fault == Fault::kStartPose || cause.fault == Fault::kReturnNotConfirmed;
  if (!is_pose) throw std::invalid_argument("start: " + describe(cause));
  const auto joint = static_cast<std::size_t>(cause.index);
  const std::string range = number(static_cast<double>(limits_.lower()[joint])) + " to " +
                            number(static_cast<double>(limits_.upper()[joint]));
  const std::string advice =
      cause.fault == Fault::kStartPose
          ? ". Move the joint inside its limits, or check the driver's units and order of joints"
          : ". Confirm the slow motion back to the limits, or move the joint";
  throw std::invalid_argument(
      expected_got("state[" + std::to_string(cause.index) + "]",
                   range + " (start_tolerance " + number(settings_.start_tolerance[joint]) + ")",
                   number(cause.value) + advice + " (" + info_of(cause.fault).name + ")"));
}

std::optional<InferenceRequest> RealtimeLoop::wait_for_request(double timeout_s) {
  std::optional<InferenceRequest> request;
  poll(timeout_s, [&] {
    request = inference_->mailbox().take(MonotonicClock().now_ns());
    return request.has_value() || is_closing_.load(std::memory_order_relaxed);
  });
  return request;
}

void RealtimeLoop::stop(StopCategory category, const std::string& reason) {
  {
    const std::lock_guard lock(reason_mutex_);
    if (operator_reason_.empty()) operator_reason_ = reason;
  }
  core_.request_stop(category);
}

bool RealtimeLoop::wait_until_ended(double timeout_s) const {
  return poll(timeout_s, [this] { return !has_session(); });
}

void RealtimeLoop::close() noexcept {
  // A start on another thread is answered first, so that its session is stopped, too.
  const std::lock_guard lock(callers_);
  if (!thread_.joinable()) return;
  if (has_session()) core_.request_stop(settings_.stop_category);
  is_closing_.store(true, std::memory_order_release);
  thread_.join();
}

std::string RealtimeLoop::reason() const {
  const LoopStatus status = core_.status();
  if (status.phase != LoopPhase::kStopping && status.phase != LoopPhase::kStopped) return {};
  std::string text = describe(status.cause);
  const Fault fault = status.cause.fault;
  if (fault == Fault::kHeldTooLong) text += "; " + describe(status.held_by);
  const bool is_failure =
      fault == Fault::kRetriesExhausted ||
      (fault == Fault::kHeldTooLong && status.held_by.fault == Fault::kInferenceFailed);
  if (is_failure) text += "; the last one: " + inference_->mailbox().failure();
  if (fault == Fault::kOperatorStop) {
    const std::lock_guard lock(reason_mutex_);
    if (!operator_reason_.empty()) text += "; " + operator_reason_;
  }
  return text;
}

}  // namespace flux
