#include "flux/robot_watch.hpp"

#include <algorithm>
#include <cmath>

#include "flux/clock.hpp"

namespace flux {
namespace {

// A state may be captured after the tick began and before it is read.
constexpr std::int64_t kFutureNs = 20'000'000;
// Ticks for which a joint may be farther from its command than max_following_error; also periods of
// silence, and commands without acknowledgement.
constexpr int kPatience = 3;
// How long a robot that had stopped by itself may take to catch up with its command.
constexpr std::int64_t kCatchUpNs = 2'000'000'000;

// The age of what happened at a time on the monotonic clock. There are no times before 0: a
// driver's NaN becomes one when it is converted, and the difference would overflow.
std::int64_t age_ns(std::int64_t now_ns, std::int64_t then_ns) noexcept {
  return now_ns - std::max<std::int64_t>(then_ns, 0);
}

}  // namespace

RobotWatch::RobotWatch(const RealtimeSettings& settings, const SafetyLimits& limits,
                       RobotLink& link, FaultWatch& faults,
                       std::span<const std::uint8_t> binary_mask)
    : settings_(settings),
      limits_(limits),
      link_(link),
      faults_(faults),
      binary_mask_(binary_mask),
      period_ns_(settings.period_ns()),
      state_(link.state_dim()),
      frames_(link.num_cameras()),
      last_frame_ns_(settings.cameras.size()),
      ticks_behind_(link.action_dim()) {}

void RobotWatch::read(std::int64_t now_ns) noexcept {
  now_ns_ = now_ns;
  sample_ = link_.read_state(state_);
  status_ = link_.status();
  for (std::size_t i = 0; i < frames_.size(); ++i) frames_[i] = link_.frame_captured_ns(i);
  is_finite_ = sample_.count > 0 &&
               std::ranges::all_of(state_, [](float value) { return std::isfinite(value); });
  const bool has_time = sample_.count > 0 && sample_.captured_ns > 0;
  is_stale_ =
      !has_time || to_seconds(age_ns(now_ns, sample_.captured_ns)) > settings_.max_state_age_s;
}

bool RobotWatch::has_driver() const noexcept {
  return status_.is_alive && status_.phase == DriverPhase::kReady;
}

Cause RobotWatch::outside(double share_of_tolerance) const noexcept {
  if (settings_.is_by_differences()) return {};
  for (std::size_t i = 0; i < limits_.action_dim(); ++i) {
    const auto value = static_cast<double>(state_[i]);
    const auto lower = static_cast<double>(limits_.lower()[i]);
    const auto upper = static_cast<double>(limits_.upper()[i]);
    const double margin =
        share_of_tolerance * settings_.start_tolerance[i] + SafetyFilter::kTolerance;
    if (value < lower - margin) return {Fault::kStartPose, static_cast<int>(i), value, lower};
    if (value > upper + margin) return {Fault::kStartPose, static_cast<int>(i), value, upper};
  }
  return {};
}

Cause RobotWatch::check_start(bool is_return_confirmed) const noexcept {
  if (!has_driver()) return {.fault = Fault::kDriverNotReady};
  if (is_stale_) {
    const double age_s = sample_.count > 0 ? to_seconds(age_ns(now_ns_, sample_.captured_ns)) : 0.0;
    return {Fault::kStateStale, -1, age_s, settings_.max_state_age_s};
  }
  if (!is_finite_) {
    const auto bad = std::ranges::find_if_not(state_, [](float v) { return std::isfinite(v); });
    return {Fault::kStateNotFinite, static_cast<int>(bad - state_.begin()),
            static_cast<double>(*bad), 0.0};
  }
  if (const Cause far = outside(1.0); far.fault != Fault::kNone) return far;
  Cause near = outside(0.0);
  if (near.fault == Fault::kNone || is_return_confirmed) return {};
  near.fault = Fault::kReturnNotConfirmed;
  return near;
}

void RobotWatch::begin_session(std::uint64_t session) noexcept {
  session_ = session;
  is_session_seen_ = false;
  last_state_ns_ = 0;
  std::ranges::fill(last_frame_ns_, 0);
  std::ranges::fill(ticks_behind_, 0);
  may_be_behind_until_ns_ = 0;
  dropped_old_ = status_.dropped_old;
  refused_steps_ = status_.refused_steps;
}

void RobotWatch::watch(std::span<const float> command, std::uint64_t sequence) noexcept {
  watch_state();
  watch_frames();
  watch_driver(sequence);
  watch_following(command);
}

void RobotWatch::watch_state() noexcept {
  const double age_s = to_seconds(age_ns(now_ns_, sample_.captured_ns));
  faults_.set(Fault::kStateStale, is_stale_, -1, age_s, settings_.max_state_age_s);
  faults_.set(Fault::kStateNotFinite, sample_.count > 0 && !is_finite_);
  const bool is_future = sample_.captured_ns > now_ns_ + kFutureNs;
  const bool is_backwards = sample_.captured_ns < last_state_ns_;
  faults_.set(Fault::kStateTime, is_future || is_backwards, -1,
              is_future ? -age_s : -to_seconds(age_ns(last_state_ns_, sample_.captured_ns)), 0.0);
  // A time in the future must not make all later ones run backwards.
  if (!is_future) last_state_ns_ = std::max<std::int64_t>(sample_.captured_ns, 0);
}

void RobotWatch::watch_frames() noexcept {
  for (std::size_t i = 0; i < settings_.cameras.size(); ++i) {
    const auto camera = static_cast<int>(settings_.cameras[i]);
    const std::int64_t captured_ns = frames_[settings_.cameras[i]];
    const double age_s = to_seconds(age_ns(now_ns_, captured_ns));
    faults_.set(Fault::kFrameStale, captured_ns <= 0 || age_s > settings_.max_frame_age_s, camera,
                age_s, settings_.max_frame_age_s);
    const bool is_future = captured_ns > now_ns_ + kFutureNs;
    const bool is_backwards = captured_ns < last_frame_ns_[i];
    faults_.set(Fault::kFrameTime, is_future || is_backwards, camera,
                is_future ? -age_s : -to_seconds(age_ns(last_frame_ns_[i], captured_ns)), 0.0);
    if (!is_future) last_frame_ns_[i] = std::max<std::int64_t>(captured_ns, 0);
  }
}

void RobotWatch::watch_driver(std::uint64_t sequence) noexcept {
  const double silence_s = to_seconds(age_ns(now_ns_, status_.heartbeat_ns));
  const double patience_s = kPatience * to_seconds(period_ns_);
  faults_.set(Fault::kDriverSilent, silence_s > patience_s, -1, silence_s, patience_s);
  if (status_.session == session_) is_session_seen_ = true;
  const std::uint64_t acknowledged = status_.session == session_ ? status_.acknowledged : 0;
  const std::uint64_t open = sequence > acknowledged ? sequence - acknowledged : 0;
  faults_.set(Fault::kUnacknowledged, open > kPatience, -1, static_cast<double>(open), kPatience);
  if (status_.dropped_old > dropped_old_) {
    faults_.note(Fault::kCommandDropped, -1,
                 static_cast<double>(status_.dropped_old - dropped_old_));
  }
  dropped_old_ = status_.dropped_old;
}

bool RobotWatch::takes_refused_step() noexcept {
  const bool is_refused = status_.refused_steps > refused_steps_;
  refused_steps_ = status_.refused_steps;
  return is_refused;
}

void RobotWatch::watch_following(std::span<const float> command) noexcept {
  if (settings_.max_following_error.empty() || settings_.is_by_differences()) return;
  // What is not known cannot be compared; other faults hold meanwhile.
  if (!has_state()) return;
  // A robot that stops by itself does so at once, while its command brakes within the limits.
  if (sample_.speed_scaling == 0.0) may_be_behind_until_ns_ = now_ns_ + kCatchUpNs;
  const bool may_be_behind = now_ns_ <= may_be_behind_until_ns_;
  bool is_behind = false;
  for (std::size_t i = 0; i < command.size(); ++i) {
    if (!binary_mask_.empty() && binary_mask_[i] != 0) continue;
    const double error = std::abs(static_cast<double>(state_[i]) - static_cast<double>(command[i]));
    const double limit = settings_.max_following_error[i];
    if (error > limit) is_behind = true;
    const bool counts = error > limit && !may_be_behind;
    ticks_behind_[i] = counts ? std::min(ticks_behind_[i] + 1, kPatience + 1) : 0;
    faults_.set(Fault::kFollowingError, ticks_behind_[i] > kPatience, static_cast<int>(i), error,
                limit);
  }
  if (!is_behind && sample_.speed_scaling > 0.0) may_be_behind_until_ns_ = 0;
}

Cause RobotWatch::stop_cause() const noexcept {
  if (!status_.is_alive) return {.fault = Fault::kDriverDead};
  if (status_.phase == DriverPhase::kStopped) return {.fault = Fault::kDriverStopped};
  if (status_.phase != DriverPhase::kReady) return {.fault = Fault::kDriverFailed};
  if (is_session_seen_ && status_.session != session_) {
    return {Fault::kSessionLost, -1, static_cast<double>(status_.session),
            static_cast<double>(session_)};
  }
  if (!has_state()) return {};
  Cause cause = outside(1.0);
  if (cause.fault != Fault::kNone) cause.fault = Fault::kLeftLimits;
  return cause;
}

}  // namespace flux
