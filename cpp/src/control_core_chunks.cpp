// The part of ControlCore that asks for chunks and decides whether they are executed.
#include <algorithm>
#include <cmath>
#include <utility>

#include "flux/clock.hpp"
#include "flux/control_core.hpp"

namespace flux {
namespace {

// Between a failure and the next try.
constexpr std::int64_t kRetryNs = 100'000'000;
// Chunks in a row that may take longer than they last.
constexpr int kSlowChunks = 3;
// An observation may be captured after the tick began.
constexpr double kFutureS = 0.02;
// What remains of adding up fractions of a row.
constexpr double kRounding = 1e-9;
constexpr double kMostRows = 1e6;
// Rows over which a late chunk that continues nothing is faded in.
constexpr std::int64_t kFadedRows = 4;
// After a gap, the time for which the robot was held up is not known.
constexpr std::int64_t kMostSlowedPeriods = 3;

}  // namespace

double ControlCore::max_chunk_age_s(std::int64_t num_rows) const noexcept {
  return static_cast<double>(num_rows) / settings_.rows_per_s() + settings_.stale_after_s;
}

double ControlCore::chunk_age_s(std::int64_t observed_ns, const InferenceRequest& request,
                                const Tick& tick) const noexcept {
  const std::int64_t age_ns = tick.header.tick_ns - observed_ns;
  // The observation was made some time after the request was taken.
  const std::int64_t slowed_ns = slowed_ns_ - request.progress.slowed_ns;
  return to_seconds(age_ns -
                    std::clamp<std::int64_t>(slowed_ns, 0, std::max<std::int64_t>(age_ns, 0)));
}

std::int64_t ControlCore::rows_left() const noexcept {
  return static_cast<std::int64_t>(player_.remaining().size() / layout_.action_dim);
}

void ControlCore::publish_progress() noexcept {
  mailbox_->set_progress({.next_row = player_.next_row(), .slowed_ns = slowed_ns_});
}

// While the robot's own speed scaling or a slow start holds it up, its chunks do not become older.
// If it stands, it may do so for long, and starts again with a new chunk.
void ControlCore::note_slowness(const Tick& tick) noexcept {
  if (tick.scaling >= 1.0) return;
  const std::int64_t since_ns = std::min(tick.since_ns, kMostSlowedPeriods * period_ns_);
  slowed_ns_ += static_cast<std::int64_t>((1.0 - tick.scaling) * static_cast<double>(since_ns));
  publish_progress();
  if (tick.rate == 0.0 && is_at_rest() && takes_chunks()) discard();
}

void ControlCore::discard() noexcept {
  player_.clear();
  inputs_.has_discarded = 1;
  if (mailbox_->discard()) inputs_.has_withdrawn = 1;
}

void ControlCore::refuse(const Cause& cause) noexcept {
  faults_.set(cause.fault, true, cause.index, cause.value, cause.limit);
  discard();
}

ChunkMailbox::Status ControlCore::look_for_answer() noexcept {
  const ChunkMailbox::Status status = mailbox_->status();
  inputs_.mailbox = static_cast<std::uint8_t>(status);
  inputs_.epoch = mailbox_->epoch();
  inputs_.has_discarded = inputs_.has_withdrawn = 0;
  return status;
}

void ControlCore::take_answer(const Tick& tick) noexcept {
  using Status = ChunkMailbox::Status;
  switch (look_for_answer()) {
    case Status::kFree:
      return;
    case Status::kPosted:
    case Status::kTaken: {
      const double waited_s = to_seconds(tick.now_ns - asked_ns_);
      if (waited_s > settings_.deadline_s() && takes_chunks()) {
        begin_stop({Fault::kInferenceDeadline, -1, waited_s, settings_.deadline_s()},
                   settings_.stop_category);
      }
      return;
    }
    case Status::kChunk: {
      TimedChunk& chunk = mailbox_->chunk();
      if (!takes_chunks() || !mailbox_->is_wanted(chunk.request)) break;
      if (!is_latency_known_) latencies_.add(to_seconds(tick.now_ns - chunk.request.taken_ns));
      is_latency_known_ = true;
      // Between two rows, a chunk that begins with the second one waits for it.
      if (!player_.has_reached(chunk.request.progress.next_row)) return;
      accept(chunk, tick);
      break;
    }
    case Status::kFailed:
      fail_inference(tick);
      break;
    case Status::kCancelled:
      break;
  }
  mailbox_->release();
}

void ControlCore::accept(TimedChunk& chunk, const Tick& tick) noexcept {
  if (faults_.first_block() != Fault::kNone) return;
  if (is_too_slow(chunk, tick)) return;
  const auto dim = static_cast<std::int64_t>(layout_.action_dim);
  const std::int64_t num_rows = static_cast<std::int64_t>(chunk.actions.size()) / dim;
  const double executed = player_.rows_since(chunk.request.progress.next_row);
  const double age_s = chunk_age_s(chunk.observed_ns, chunk.request, tick);
  const double max_age_s = max_chunk_age_s(num_rows);
  if (chunk.non_finite >= 0) {
    refuse(
        {.fault = Fault::kNonFiniteChunk,
         .index = static_cast<int>(chunk.non_finite % dim),
         .value = static_cast<double>(chunk.actions[static_cast<std::size_t>(chunk.non_finite)])});
    return;
  }
  // A capture time in the future is as worthless as one that is too old.
  const bool is_over = executed > static_cast<double>(num_rows - 1);
  if (is_over || age_s > max_age_s || age_s < -kFutureS) {
    refuse({Fault::kLateChunk, -1, age_s, max_age_s});
    return;
  }
  const auto first_row = static_cast<std::int64_t>(std::ceil(executed));
  const Cause jump = border_jump(
      std::span(chunk.actions)
          .subspan(static_cast<std::size_t>(first_row * dim), static_cast<std::size_t>(dim)));
  if (jump.fault != Fault::kNone) {
    refuse(jump);
    return;
  }
  activate(chunk, tick);
}

Cause ControlCore::border_jump(std::span<const float> row) const noexcept {
  if (settings_.max_border_jump.empty() || settings_.is_by_differences()) return {};
  for (std::size_t i = 0; i < row.size(); ++i) {
    // A threshold makes it jump on purpose, and a binary action can do nothing else.
    if (grippers_.has_threshold(i) || mailbox_->binary_mask()[i] != 0) continue;
    const double jump =
        std::abs(static_cast<double>(row[i]) - static_cast<double>(filter_.command()[i]));
    if (jump > settings_.max_border_jump[i]) {
      return {Fault::kBorderJump, static_cast<int>(i), jump, settings_.max_border_jump[i]};
    }
  }
  return {};
}

// In sync mode the robot waits for its chunks anyway; the inference's deadline bounds that.
bool ControlCore::is_too_slow(const TimedChunk& chunk, const Tick& tick) noexcept {
  if (mode_ == Mode::kSync) return false;
  const double latency_s = to_seconds(tick.now_ns - asked_ns_);
  const auto rows = static_cast<double>(chunk.actions.size() / layout_.action_dim);
  // A robot that slows itself down is in no hurry.
  const double slowness = tick.scaling > 0.0 ? 1.0 / tick.scaling : kMostRows;
  const double duration_s = rows / settings_.rows_per_s() * slowness;
  slow_chunks_ = latency_s > duration_s ? slow_chunks_ + 1 : 0;
  if (slow_chunks_ < kSlowChunks) return false;
  begin_stop({Fault::kPolicyTooSlow, -1, latency_s, duration_s}, settings_.stop_category);
  return true;
}

void ControlCore::begin(TimedChunk& chunk) noexcept {
  const std::int64_t first_row = chunk.request.progress.next_row;
  switch (mode_) {
    case Mode::kSync:
      player_.begin(chunk.actions, first_row, settings_.execution_horizon);
      return;
    case Mode::kAsync:
      player_.begin(chunk.actions, first_row);
      return;
    case Mode::kEnsemble:
      player_.merge(chunk.actions, first_row);
      return;
    case Mode::kRtc:
      join(chunk);
      player_.begin(chunk.actions, first_row);
      return;
  }
}

// Makes the rows that a chunk has in common with the running one the same, so that nothing shows
// where the one takes over from the other.
void ControlCore::join(TimedChunk& chunk) noexcept {
  const std::int64_t first_row = chunk.request.progress.next_row;
  const std::int64_t delay = chunk.request.prefix_len;
  const double rows = player_.rows_since(first_row);
  const auto executed = static_cast<std::int64_t>(std::ceil(rows));
  if (executed <= delay) {
    // The known rows of guidance are only approached.
    const bool is_prefix = settings_.continuation.method == ContinuationMethod::kPrefix;
    player_.fade(chunk.actions, first_row, is_prefix ? delay : executed,
                 is_prefix ? 0 : delay - executed);
    return;
  }
  faults_.note(Fault::kRtcLate, -1, rows, static_cast<double>(delay));
  const std::int64_t faded = delay > 0 ? delay : kFadedRows;
  player_.fade(chunk.actions, first_row, executed, std::min(faded, rows_left()));
}

void ControlCore::activate(TimedChunk& chunk, const Tick& tick) noexcept {
  begin(chunk);
  request_ = chunk.request;
  observed_ns_ = chunk.observed_ns;
  is_new_chunk_ = true;
  delays_[static_cast<std::size_t>(request_.prefix_len)].add();
  // A chunk that is asked for after one tick and ready before the next needs no lead.
  const std::int64_t ticks = (tick.now_ns - asked_ns_ + period_ns_ - 1) / period_ns_;
  lead_ =
      std::clamp(static_cast<double>(ticks - 1) * settings_.rows_per_s() / settings_.commands_hz(),
                 0.0, static_cast<double>(settings_.execution_horizon));
  failures_ = 0;
  is_starved_fresh_ = false;
  counts_.chunks.add();
  for (const FaultInfo& info : kFaults) {
    if (ends_with_a_chunk(info.fault)) faults_.end(info.fault);
  }
}

void ControlCore::fail_inference(const Tick& tick) noexcept {
  if (!takes_chunks()) return;
  ++failures_;
  const Cause cause{Fault::kInferenceFailed, -1, static_cast<double>(failures_),
                    static_cast<double>(settings_.max_retries)};
  if (faults_.is_present(cause.fault)) {
    faults_.note(cause.fault, cause.index, cause.value, cause.limit);
  }
  refuse(cause);
  ask_after_ns_ = tick.now_ns + kRetryNs;
  if (failures_ <= settings_.max_retries || settings_.waits_for_policy()) return;
  begin_stop({Fault::kRetriesExhausted, -1, cause.value, cause.limit}, settings_.stop_category);
}

// Ends a chunk that has become too old, and notices when there are no rows left.
void ControlCore::check_rows(const Tick& tick) noexcept {
  if (!player_.has_chunk() || phase() != LoopPhase::kRunning) return;
  if (player_.has_row()) {
    const double age_s = chunk_age_s(observed_ns_, request_, tick);
    const double max_age_s = max_chunk_age_s(player_.num_rows());
    if (age_s > max_age_s) refuse({Fault::kLateChunk, -1, age_s, max_age_s});
    return;
  }
  if (mode_ == Mode::kSync) return;
  faults_.set(Fault::kStarved, true, -1, player_.executed(),
              static_cast<double>(player_.num_rows()));
}

bool ControlCore::is_chunk_due(int delay) const noexcept {
  // From a standing robot, unless the running chunk is about to be replaced.
  if (!player_.has_row()) return is_at_rest();
  const double executed = player_.executed() + kRounding;
  switch (mode_) {
    case Mode::kSync:
      return false;
    case Mode::kAsync:
      return executed >= settings_.execution_horizon - lead_;
    case Mode::kEnsemble:
      return true;
    case Mode::kRtc:
      // A chunk that began late has fewer rows left for the next delay than others.
      return executed >= settings_.execution_horizon - delay ||
             rows_left() <= player_.num_rows() - settings_.execution_horizon;
  }
  return false;
}

int ControlCore::coming_delay(const Tick& tick) const noexcept {
  if (mode_ != Mode::kRtc || !player_.has_row()) return 0;
  // While the next chunk is inferred, a slow start becomes faster.
  const double ticks = latencies_.quantile_s() * settings_.commands_hz();
  const double faster = slow_start(static_cast<std::uint64_t>(ticks)) / slow_start(0);
  const double rows_per_s = tick.rate * faster * settings_.commands_hz();
  const auto rows = static_cast<int>(
      std::clamp(std::ceil(latencies_.quantile_s() * rows_per_s - kRounding), 0.0, kMostRows));
  const int s = settings_.execution_horizon;
  const auto num_rows = static_cast<int>(player_.num_rows());
  int delay = usable_delay(settings_.continuation, rows, s, num_rows);
  if (delay < 0) delay = largest_usable_delay(settings_.continuation, s, num_rows);
  // After a chunk that was very late, fewer rows may be left: then as many of them as possible.
  const auto left = static_cast<int>(rows_left());
  if (delay > left) delay = largest_usable_delay(settings_.continuation, left, 2 * left);
  return std::max(delay, 0);
}

void ControlCore::ask(const Tick& tick) noexcept {
  if (!takes_chunks() || mailbox_->status() != ChunkMailbox::Status::kFree) return;
  if (tick.now_ns < ask_after_ns_ || faults_.first_block() != Fault::kNone) return;
  const int delay = coming_delay(tick);
  if (tick.rate == 0.0 || !is_chunk_due(delay)) return;
  asked_ns_ = tick.now_ns;
  is_latency_known_ = false;
  publish_progress();
  const bool continues = mode_ == Mode::kRtc && player_.has_row();
  mailbox_->post(next_index_++, session_.load(std::memory_order_relaxed),
                 continues ? player_.remaining() : std::span<const float>(), delay);
}

}  // namespace flux
