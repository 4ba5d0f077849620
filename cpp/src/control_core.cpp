#include "flux/control_core.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "flux/clock.hpp"
#include "flux/tensor.hpp"

namespace flux {
namespace {

constexpr std::size_t kNumEvents = 8192;
// A tick that begins within this share of a period of its time on the grid counts as on time.
constexpr double kOnTime = 0.025;
constexpr int kGapPeriods = 3;
// How long braking may take beyond what the limits need.
constexpr double kStopMarginS = 1.0;

std::size_t ring_capacity(const RealtimeSettings& settings) {
  return static_cast<std::size_t>(std::ceil(settings.record_s * settings.commands_hz())) + 1;
}

const SafetyLimits& matching(const SafetyLimits& limits, const RobotLink& link) {
  if (limits.action_dim() == link.action_dim()) return limits;
  throw std::invalid_argument(expected_got(
      "limits", "the robot's " + std::to_string(link.action_dim()) + " action dimensions",
      std::to_string(limits.action_dim())));
}

template <typename Value>
Value load(const std::atomic<Value>& value) noexcept {
  return value.load(std::memory_order_relaxed);
}

template <typename Value>
void store(std::atomic<Value>& place, Value value) noexcept {
  place.store(value, std::memory_order_relaxed);
}

}  // namespace

ControlCore::ControlCore(const RealtimeSettings& settings, const SafetyLimits& limits,
                         std::shared_ptr<RobotLink> link, std::shared_ptr<ChunkMailbox> mailbox,
                         const std::atomic<int>* signal)
    : settings_(settings),
      mode_(settings.mode),
      limits_(matching(limits, *link)),
      link_(std::move(link)),
      mailbox_(std::move(mailbox)),
      signal_(signal),
      period_ns_(settings.period_ns()),
      period_s_(1.0 / settings.commands_hz()),
      layout_(link_->num_cameras(), link_->state_dim(), link_->action_dim()),
      ticks_(layout_.bytes, ring_capacity(settings)),
      events_(sizeof(Event), kNumEvents),
      faults_(events_),
      watch_(settings_, limits_, *link_, faults_, mailbox_->binary_mask()),
      grippers_(settings.grippers, limits_.action_dim(), mailbox_->binary_mask()),
      filter_(limits_, settings.commands_hz(), mailbox_->binary_mask()),
      start_(limits_.action_dim()),
      player_(limits_.action_dim(), mailbox_->max_rows(), mailbox_->binary_mask()),
      delays_(mailbox_->max_rows() + 1) {
  session_start_.state.resize(link_->state_dim());
}

void ControlCore::request_stop(StopCategory category) noexcept {
  // Of two requests, the one that removes power sooner counts.
  int asked = stop_request_.load();
  const int wanted = static_cast<int>(category);
  while ((asked < 0 || wanted < asked) && !stop_request_.compare_exchange_weak(asked, wanted)) {
  }
}

bool ControlCore::is_active() const noexcept {
  const LoopPhase current = phase();
  return current != LoopPhase::kIdle && current != LoopPhase::kStopped;
}

bool ControlCore::is_at_rest() const noexcept {
  return settings_.is_by_differences()
             ? std::ranges::equal(filter_.command(), settings_.rest_command)
             : filter_.is_at_rest();
}

bool ControlCore::takes_chunks() const noexcept {
  if (is_returning_) return false;
  return phase() == LoopPhase::kRunning || phase() == LoopPhase::kHolding;
}

void ControlCore::set_phase(LoopPhase phase) noexcept {
  phase_.store(phase, std::memory_order_release);
}

LoopStatus ControlCore::status() const noexcept {
  return {.phase = phase_.load(std::memory_order_acquire),
          .session = load(session_),
          .cause = {load(stop_fault_), load(stop_index_), load(stop_value_), load(stop_limit_)},
          .held_by = {load(held_by_), load(held_index_), std::nan(""), 0.0},
          .category = load(category_),
          .is_at_rest = load(is_at_rest_)};
}

Cause ControlCore::start(std::uint64_t session, bool is_return_confirmed,
                         std::int64_t now_ns) noexcept {
  if (stop_request_.exchange(-1) >= 0) return {.fault = Fault::kOperatorStop};
  if (const int signal = signal_ != nullptr ? signal_->load() : 0; signal != 0) {
    return {Fault::kSignal, -1, static_cast<double>(signal), 0.0};
  }
  watch_.read(now_ns);
  const Cause refusal = watch_.check_start(is_return_confirmed);
  if (refusal.fault != Fault::kNone) return refusal;
  note_start(session, is_return_confirmed, now_ns);
  is_finish_requested_ = false;
  sequence_ = 0;
  last_tick_ns_ = last_sent_ns_ = 0;
  last_watch_ns_ = now_ns;
  held_ns_ = blocked_ns_ = ask_after_ns_ = 0;
  lead_ = 0.0;
  latencies_.clear();
  if (settings_.first_latency_s > 0.0) latencies_.add(settings_.first_latency_s);
  asked_ns_ = now_ns;  // an inference of the last session may still be running
  next_index_ = 0;
  used_ticks_ = executed_ticks_ = 0;
  failures_ = slow_chunks_ = 0;
  faults_.reset();
  faults_.begin_tick(now_ns, session, 0);
  watch_.begin_session(session);
  for (Counter* count :
       {&counts_.ticks, &counts_.deadline_misses, &counts_.held_ticks, &counts_.chunks}) {
    count->reset();
  }
  for (Counter& count : delays_) count.reset();
  intervals_.reset();
  jitter_.reset();
  go_from_measured();
  filter_.reset(start_);
  const bool was_posted = session_start_.mailbox == ChunkMailbox::Status::kPosted;
  if (was_posted && inputs_.has_withdrawn == 0) {
    session_start_.mailbox = ChunkMailbox::Status::kTaken;  // in this moment
  }
  player_.reset();
  slowed_ns_ = 0;
  publish_progress();
  is_returning_ = !settings_.is_by_differences() && !filter_.is_within_limits();
  if (is_returning_) faults_.set(Fault::kReturnToLimits, true);
  store(session_, session);
  store(stop_fault_, Fault::kNone);
  store(held_by_, Fault::kNone);
  store(category_, settings_.stop_category);
  store(is_at_rest_, true);
  link_->announce(LinkPhase::kRunning, settings_.stop_category, session);
  set_phase(is_returning_ ? LoopPhase::kReturning : LoopPhase::kRunning);
  return {};
}

void ControlCore::note_start(std::uint64_t session, bool is_return_confirmed,
                             std::int64_t now_ns) noexcept {
  session_start_.session = session;
  session_start_.is_return_confirmed = is_return_confirmed;
  session_start_.is_slow = has_slow_start_;
  session_start_.max_ticks = max_ticks_;
  session_start_.now_ns = now_ns;
  session_start_.sample = watch_.sample();
  std::ranges::copy(watch_.state(), session_start_.state.begin());
  session_start_.status = watch_.status();
  session_start_.mailbox = mailbox_->status();
  inputs_ = {};
}

// Without a session, or after its stop: the driver hears that this side lives, but no command.
void ControlCore::rest_tick(std::int64_t now_ns) noexcept {
  using Status = ChunkMailbox::Status;
  const Status status = mailbox_->status();
  // A request that is only posted may be taken at any moment, so it is withdrawn, not released.
  if (status == Status::kPosted) {
    mailbox_->discard();
  } else if (status != Status::kFree && status != Status::kTaken) {
    mailbox_->release();
  }
  const int category = stop_request_.exchange(-1);
  if (category >= 0) stop_at_rest(static_cast<StopCategory>(category), now_ns);
}

// A stop without a session is latched as well. After a stop, its cause stays the reason, and only a
// category that removes power sooner is announced.
void ControlCore::stop_at_rest(StopCategory category, std::int64_t now_ns) noexcept {
  if (phase() == LoopPhase::kStopped) {
    if (category >= load(category_)) return;
    store(category_, category);
  } else {
    faults_.begin_tick(now_ns, load(session_), counts_.ticks.get());
    begin_stop({.fault = Fault::kOperatorStop}, category);
  }
  end_session(LoopPhase::kStopped);
}

void ControlCore::tick(std::int64_t deadline_ns, std::int64_t now_ns) noexcept {
  link_->beat(now_ns);
  watch_.read(now_ns);
  if (!is_active()) {
    rest_tick(now_ns);
    return;
  }
  note_inputs(now_ns);
  Tick tick = begin_tick(deadline_ns, now_ns);
  take_requests();
  watch_.watch(filter_.command(), sequence_);
  note_lateness(tick);
  note_slowness(tick);
  take_answer(tick);
  check_rows(tick);
  update_hold(tick);
  if (const Cause cause = watch_.stop_cause(); cause.fault != Fault::kNone) {
    begin_stop(cause, settings_.stop_category);
  }
  last_watch_ns_ = now_ns;
  const bool is_stopping = phase() == LoopPhase::kStopping;
  if (is_stopping && (!watch_.has_driver() || load(category_) == StopCategory::kPowerOff)) {
    end_session(LoopPhase::kStopped);
    record(tick);
    return;
  }
  // A step so short after the last one would allow no sensible motion.
  if (last_tick_ns_ != 0 && tick.since_ns < period_ns_ / 4) {
    record(tick);
    return;
  }
  move(tick);
  send(tick);
  record(tick);
  count_used(tick);
  end_if_at_rest(tick);
  ask(tick);
}

void ControlCore::note_inputs(std::int64_t now_ns) noexcept {
  const LinkStatus& status = watch_.status();
  inputs_ = {.now_ns = now_ns,
             .state_count = watch_.sample().count,
             .speed_scaling = watch_.sample().speed_scaling,
             .heartbeat_ns = status.heartbeat_ns,
             .driver_session = status.session,
             .dropped_old = status.dropped_old,
             .refused_steps = status.refused_steps,
             .ticket = mailbox_->ticket(),
             .driver_phase = static_cast<std::uint8_t>(status.phase),
             .is_driver_alive = status.is_alive ? std::uint8_t{1} : std::uint8_t{0}};
}

void ControlCore::count_used(const Tick& tick) noexcept {
  const bool is_used = takes_chunks() && (tick.header.flags & kReturning) == 0;
  if (is_used && ++used_ticks_ == max_ticks_) request_finish();
}

ControlCore::Tick ControlCore::begin_tick(std::int64_t deadline_ns, std::int64_t now_ns) noexcept {
  Tick tick;
  const auto off_grid = static_cast<double>(std::abs(now_ns - deadline_ns));
  const bool is_on_time = off_grid <= kOnTime * static_cast<double>(period_ns_);
  tick.now_ns = now_ns;
  tick.header.tick_ns = is_on_time ? deadline_ns : now_ns;
  tick.header.deadline_ns = deadline_ns;
  tick.header.session = load(session_);
  tick.header.state_captured_ns = watch_.sample().captured_ns;
  tick.header.acknowledged = watch_.status().acknowledged;
  tick.header.progress = watch_.status().progress;
  tick.since_ns = last_tick_ns_ == 0 ? period_ns_ : tick.header.tick_ns - last_tick_ns_;
  tick.dt_s = tick.since_ns >= period_ns_ ? period_s_ : to_seconds(tick.since_ns);
  tick.scaling =
      settings_.is_by_differences() ? 1.0 : watch_.sample().speed_scaling * slow_start(0);
  tick.rate = settings_.rows_per_s() * tick.scaling / settings_.commands_hz();
  tick.header.speed = static_cast<float>(settings_.speed * tick.scaling);
  faults_.begin_tick(now_ns, tick.header.session, counts_.ticks.get());
  return tick;
}

void ControlCore::take_requests() noexcept {
  const int category = stop_request_.exchange(-1);
  inputs_.stop_request = static_cast<std::int8_t>(category);
  if (category >= 0) {
    begin_stop({.fault = Fault::kOperatorStop}, static_cast<StopCategory>(category));
  }
  if (const int signal = signal_ != nullptr ? signal_->load() : 0; signal != 0) {
    inputs_.signal = signal;
    begin_stop({Fault::kSignal, -1, static_cast<double>(signal), 0.0}, settings_.stop_category);
  }
  const bool is_ending = phase() == LoopPhase::kStopping || phase() == LoopPhase::kFinishing;
  const bool is_finishing = is_finish_requested_.exchange(false);
  inputs_.is_finish_requested = is_finishing ? 1 : 0;
  if (is_finishing && !is_ending) {
    discard();
    stopping_since_ns_ = 0;
    rest_sequence_ = 0;
    set_phase(LoopPhase::kFinishing);
  }
}

double ControlCore::slow_start(std::uint64_t in_ticks) const noexcept {
  return has_slow_start_ ? settings_.slow_start(executed_ticks_ + in_ticks) : 1.0;
}

void ControlCore::note_lateness(Tick& tick) noexcept {
  const std::int64_t late_ns = tick.now_ns - tick.header.deadline_ns;
  if (late_ns > period_ns_) {
    faults_.note(Fault::kMissedTick, -1, to_seconds(late_ns), period_s_);
  }
  const bool is_gap = tick.since_ns > kGapPeriods * period_ns_;
  if (is_gap) {
    faults_.note(Fault::kGap, -1, to_seconds(tick.since_ns), kGapPeriods * period_s_);
  }
  const bool is_refused = watch_.takes_refused_step();
  if (is_refused) faults_.note(Fault::kStepRefused);
  if (is_gap || is_refused) {
    tick.header.flags |= kGapBefore;
    restart_within_limits();
  }
}

// Discards the running chunk and finds the command that leaves the robot where it is.
void ControlCore::go_from_measured() noexcept {
  discard();
  const std::span<const float> here = watch_.has_state() ? watch_.state() : filter_.command();
  std::ranges::copy(settings_.is_by_differences() ? std::span(settings_.rest_command) : here,
                    start_.begin());
}

// In the middle of a session. A joint that is measured a little outside its limits, as under a
// load, was commanded to stand inside them, and nobody has confirmed a motion outside.
void ControlCore::restart_within_limits() noexcept {
  go_from_measured();
  if (settings_.is_by_differences()) {
    filter_.reset(start_);
    return;
  }
  filter_.restart(start_);
  if (is_returning_ || filter_.is_within_limits()) return;
  for (std::size_t i = 0; i < start_.size(); ++i) {
    start_[i] = std::clamp(start_[i], limits_.lower()[i], limits_.upper()[i]);
  }
  filter_.restart(start_);
}

void ControlCore::update_hold(const Tick& tick) noexcept {
  const Fault cause = faults_.first_hold();
  const LoopPhase current = phase();
  if (current == LoopPhase::kStopping || current == LoopPhase::kFinishing) return;
  if (cause == Fault::kNone) {
    if (current != LoopPhase::kHolding) return;
    set_phase(is_returning_ ? LoopPhase::kReturning : LoopPhase::kRunning);
    return;
  }
  set_phase(LoopPhase::kHolding);
  if (faults_.first_block() != Fault::kNone) discard();
  // A chunk that comes while the robot still brakes continues the motion; one from before a
  // standstill does not.
  if (cause == Fault::kStarved && !is_starved_fresh_ && is_at_rest()) {
    discard();
    is_starved_fresh_ = true;
  }
  // While the robot has stopped itself, no chunk is asked for that could end such a cause.
  if (tick.rate == 0.0 && faults_.first_block() == Fault::kNone) return;
  stop_if_held_too_long(tick);
}

// A hold that only lacks a chunk may have a bound of its own.
void ControlCore::stop_if_held_too_long(const Tick& tick) noexcept {
  const Fault block = faults_.first_block();
  const std::int64_t since_ns = std::min(tick.now_ns - last_watch_ns_, kGapPeriods * period_ns_);
  held_ns_ += since_ns;
  if (block != Fault::kNone) blocked_ns_ += since_ns;
  const bool is_waiting = settings_.waits_for_policy();
  const bool is_blocked = is_waiting && to_seconds(blocked_ns_) > settings_.hold_for_s;
  const double held_s = to_seconds(is_blocked ? blocked_ns_ : held_ns_);
  const double bound_s =
      is_waiting && !is_blocked ? settings_.chunk_hold_for_s : settings_.hold_for_s;
  if (held_s <= bound_s) return;
  // Without an observation no chunk can come: a robot that starves meanwhile is held by the block.
  const bool is_held_by_block = block != Fault::kNone && (is_blocked || !is_waiting);
  const Fault cause = is_held_by_block ? block : faults_.first_hold();
  store(held_by_, cause);
  store(held_index_, faults_.first_index(cause));
  begin_stop({Fault::kHeldTooLong, -1, held_s, bound_s}, settings_.stop_category);
}

void ControlCore::move(Tick& tick) noexcept {
  std::uint32_t& flags = tick.header.flags;
  // Also while it is held or stopped on its way: what is sent then may lie outside the limits.
  if (is_returning_) flags |= kReturning;
  switch (phase()) {
    case LoopPhase::kRunning:
      if (player_.has_row() && tick.rate > 0.0) {
        play(tick);
        return;
      }
      flags |= kHeld;
      break;
    case LoopPhase::kReturning:
      flags |= kHeld;
      filter_.return_to_limits(tick.dt_s);
      is_returning_ = !filter_.is_within_limits() || !filter_.is_at_rest();
      if (is_returning_) return;
      faults_.end(Fault::kReturnToLimits);
      set_phase(LoopPhase::kRunning);
      return;
    case LoopPhase::kHolding:
      flags |= kHeld | kHolding;
      break;
    default:
      flags |= kHeld | kStopping;
      break;
  }
  report_clips(0, {});
  brake(tick.dt_s);
}

void ControlCore::play(Tick& tick) noexcept {
  const ChunkPlayer::Look look = grippers_.applied(player_.look(tick.rate));
  tick.header.observed_ns = observed_ns_;
  tick.header.row = static_cast<std::int32_t>(player_.row());
  tick.header.flags |= filter_.apply(look.action, look.preview, tick.dt_s);
  if (is_new_chunk_) tick.header.flags |= kNewChunk;
  is_new_chunk_ = false;
  report_clips(tick.header.flags, look.action);
  held_ns_ = blocked_ns_ = 0;
  player_.advance(tick.rate);
  ++executed_ticks_;
  publish_progress();
}

void ControlCore::brake(double dt_s) noexcept {
  if (settings_.is_by_differences()) {
    filter_.reset(settings_.rest_command);
  } else {
    filter_.brake(dt_s);
  }
}

// Reports which joint was farthest from what was asked for, and both values.
void ControlCore::report_clips(std::uint32_t flags, std::span<const float> action) noexcept {
  constexpr std::uint32_t kClips =
      kClippedPosition | kClippedVelocity | kClippedAcceleration | kClippedJerk;
  int joint = -1;
  double farthest = 0.0;
  for (std::size_t i = 0; (flags & kClips) != 0 && i < action.size(); ++i) {
    const double distance =
        std::abs(static_cast<double>(action[i]) - static_cast<double>(filter_.command()[i]));
    if (joint >= 0 && !(distance > farthest)) continue;
    joint = static_cast<int>(i);
    farthest = distance;
  }
  const auto at = static_cast<std::size_t>(std::max(joint, 0));
  const double asked = joint < 0 ? 0.0 : static_cast<double>(action[at]);
  const double sent = joint < 0 ? 0.0 : static_cast<double>(filter_.command()[at]);
  const auto report = [&](Fault fault, std::uint32_t flag) {
    const bool is_present = (flags & flag) != 0;
    // One event for the fault as such, even if another joint is now the farthest.
    if (is_present == faults_.is_present(fault)) return;
    if (is_present) {
      faults_.set(fault, true, joint, asked, sent);
    } else {
      faults_.end(fault);
    }
  };
  report(Fault::kPosition, kClippedPosition);
  report(Fault::kVelocity, kClippedVelocity);
  report(Fault::kAcceleration, kClippedAcceleration);
  report(Fault::kJerk, kClippedJerk);
}

void ControlCore::send(Tick& tick) noexcept {
  TickHeader& header = tick.header;
  header.sequence = ++sequence_;
  header.chunk = player_.has_chunk() ? static_cast<std::int64_t>(request_.index) : -1;
  header.sent_ns = link_->send(filter_.command(), {.sequence = header.sequence,
                                                   .session = header.session,
                                                   .tick_ns = header.tick_ns,
                                                   .observed_ns = header.observed_ns,
                                                   .flags = header.flags});
  if (last_sent_ns_ != 0) intervals_.record(to_seconds(header.sent_ns - last_sent_ns_));
  jitter_.record(to_seconds(header.sent_ns - header.deadline_ns));
  last_sent_ns_ = header.sent_ns;
  last_tick_ns_ = header.tick_ns;
  counts_.ticks.add();
  if ((header.flags & kHeld) != 0) counts_.held_ticks.add();
  const bool is_late = tick.now_ns - header.deadline_ns > period_ns_;
  if (is_late || faults_.is_present(Fault::kStarved)) counts_.deadline_misses.add();
  store(is_at_rest_, is_at_rest());
}

void ControlCore::record(Tick& tick) noexcept {
  std::byte* memory = ticks_.claim();
  if (memory == nullptr) return;
  tick.header.phase = static_cast<std::uint32_t>(phase());
  std::memcpy(memory, &tick.header, sizeof(tick.header));
  std::memcpy(memory + layout_.inputs, &inputs_, sizeof(inputs_));
  const std::span<const std::byte> frames = std::as_bytes(watch_.frames());
  const std::span<const std::byte> state = std::as_bytes(watch_.state());
  const std::span<const std::byte> command = std::as_bytes(filter_.command());
  if (!frames.empty()) std::memcpy(memory + layout_.frames, frames.data(), frames.size());
  std::memcpy(memory + layout_.state, state.data(), state.size());
  std::memcpy(memory + layout_.command, command.data(), command.size());
  ticks_.publish();
}

void ControlCore::begin_stop(const Cause& cause, StopCategory category) noexcept {
  const LoopPhase current = phase();
  if (current == LoopPhase::kStopping) {
    // The first cause is the reason; a stop that removes power sooner still counts.
    if (category < load(category_)) store(category_, category);
    return;
  }
  faults_.note(cause.fault, cause.index, cause.value, cause.limit);
  discard();
  store(stop_fault_, cause.fault);
  store(stop_index_, cause.index);
  store(stop_value_, cause.value);
  store(stop_limit_, cause.limit);
  store(category_, category);
  stopping_since_ns_ = 0;
  rest_sequence_ = 0;
  set_phase(LoopPhase::kStopping);
}

void ControlCore::end_if_at_rest(const Tick& tick) noexcept {
  const LoopPhase current = phase();
  if (current != LoopPhase::kStopping && current != LoopPhase::kFinishing) return;
  if (stopping_since_ns_ == 0) stopping_since_ns_ = tick.now_ns;
  const double stopping_s = to_seconds(tick.now_ns - stopping_since_ns_);
  const double bound_s = filter_.rest_time_bound_s() + kStopMarginS;
  const bool is_overdue = stopping_s > bound_s;
  if (!is_overdue && !has_accepted_rest(tick)) return;
  if (is_overdue && !is_at_rest()) {
    faults_.note(Fault::kStopOverdue, -1, stopping_s, bound_s);
  }
  end_session(current == LoopPhase::kStopping ? LoopPhase::kStopped : LoopPhase::kIdle);
}

bool ControlCore::has_accepted_rest(const Tick& tick) noexcept {
  if (!is_at_rest()) {
    rest_sequence_ = 0;
    return false;
  }
  if (rest_sequence_ == 0) {
    rest_sequence_ = sequence_;
    rest_since_ns_ = tick.now_ns;
  }
  return tick.header.acknowledged >= rest_sequence_ ||
         tick.now_ns - rest_since_ns_ > kGapPeriods * period_ns_;
}

void ControlCore::end_session(LoopPhase phase) noexcept {
  const LinkPhase announced = phase == LoopPhase::kStopped ? LinkPhase::kStopped : LinkPhase::kIdle;
  link_->announce(announced, load(category_), load(session_));
  store(is_at_rest_, true);
  set_phase(phase);
}

std::vector<std::span<const std::byte>> ControlCore::memory() const {
  std::vector<std::span<const std::byte>> parts{std::as_bytes(std::span(this, 1)), ticks_.memory(),
                                                events_.memory(), link_->memory()};
  for (const auto& more : {player_.memory(), mailbox_->memory()}) {
    parts.insert(parts.end(), more.begin(), more.end());
  }
  return parts;
}

void ControlCore::close() noexcept {
  link_->announce(LinkPhase::kClosed, load(category_), load(session_));
}

}  // namespace flux
