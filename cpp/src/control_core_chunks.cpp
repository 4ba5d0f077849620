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

}  // namespace

std::int64_t ControlCore::num_rows() const noexcept {
  return static_cast<std::int64_t>(chunk_.actions.size() / layout_.action_dim);
}

std::span<const float> ControlCore::rows(std::int64_t from, std::int64_t to) const noexcept {
  if (to <= from) return {};
  const auto dim = static_cast<std::int64_t>(layout_.action_dim);
  return std::span(chunk_.actions)
      .subspan(static_cast<std::size_t>(from * dim), static_cast<std::size_t>((to - from) * dim));
}

double ControlCore::max_chunk_age_s(std::int64_t num_rows) const noexcept {
  return static_cast<double>(num_rows) * period_s_ + settings_.stale_after_s;
}

void ControlCore::discard() noexcept {
  has_chunk_ = false;
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
    case Status::kChunk:
      accept(mailbox_->chunk(), tick);
      break;
    case Status::kFailed:
      fail_inference(tick);
      break;
    case Status::kCancelled:
      break;
  }
  mailbox_->release();
}

void ControlCore::accept(TimedChunk& chunk, const Tick& tick) noexcept {
  if (!takes_chunks() || !mailbox_->is_wanted(chunk.request)) return;
  if (faults_.first_block() != Fault::kNone) return;
  if (is_too_slow(chunk, tick)) return;
  const auto dim = static_cast<std::int64_t>(layout_.action_dim);
  const std::int64_t num_rows = static_cast<std::int64_t>(chunk.actions.size()) / dim;
  const auto first_row = static_cast<std::int64_t>(rows_executed_ - chunk.request.rows_executed);
  const double age_s = to_seconds(tick.header.tick_ns - chunk.observed_ns);
  const double max_age_s = max_chunk_age_s(num_rows);
  if (chunk.non_finite >= 0) {
    refuse(
        {.fault = Fault::kNonFiniteChunk,
         .index = static_cast<int>(chunk.non_finite % dim),
         .value = static_cast<double>(chunk.actions[static_cast<std::size_t>(chunk.non_finite)])});
    return;
  }
  // A capture time in the future is as worthless as one that is too old.
  if (first_row >= num_rows || age_s > max_age_s || age_s < -kFutureS) {
    refuse({Fault::kLateChunk, -1, age_s, max_age_s});
    return;
  }
  const Cause jump = border_jump(
      std::span(chunk.actions)
          .subspan(static_cast<std::size_t>(first_row * dim), static_cast<std::size_t>(dim)));
  if (jump.fault != Fault::kNone) {
    refuse(jump);
    return;
  }
  activate(chunk, first_row, tick);
}

Cause ControlCore::border_jump(std::span<const float> row) const noexcept {
  if (settings_.max_border_jump.empty() || settings_.is_by_differences()) return {};
  for (std::size_t i = 0; i < row.size(); ++i) {
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
  if (settings_.mode == Mode::kSync) return false;
  const double latency_s = to_seconds(tick.now_ns - asked_ns_);
  const double duration_s =
      static_cast<double>(chunk.actions.size() / layout_.action_dim) * period_s_;
  slow_chunks_ = latency_s > duration_s ? slow_chunks_ + 1 : 0;
  if (slow_chunks_ < kSlowChunks) return false;
  begin_stop({Fault::kPolicyTooSlow, -1, latency_s, duration_s}, settings_.stop_category);
  return true;
}

void ControlCore::activate(TimedChunk& chunk, std::int64_t first_row, const Tick& tick) noexcept {
  const bool is_sync = settings_.mode == Mode::kSync;
  std::swap(chunk_, chunk);
  has_chunk_ = is_new_chunk_ = true;
  row_ = first_row;
  executed_ = 0;
  end_row_ = is_sync ? std::min<std::int64_t>(num_rows(), first_row + settings_.execution_horizon)
                     : num_rows();
  // A chunk that is asked for after one tick and ready before the next needs no lead.
  const std::int64_t ticks = (tick.now_ns - asked_ns_ + period_ns_ - 1) / period_ns_;
  lead_ = std::clamp<std::int64_t>(ticks - 1, 0, settings_.execution_horizon);
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
  if (failures_ <= settings_.max_retries) return;
  begin_stop({Fault::kRetriesExhausted, -1, cause.value, cause.limit}, settings_.stop_category);
}

// Ends a chunk that has become too old, and notices when there are no rows left.
void ControlCore::check_rows(const Tick& tick) noexcept {
  if (!has_chunk_ || phase() != LoopPhase::kRunning) return;
  if (has_row()) {
    const double age_s = to_seconds(tick.header.tick_ns - chunk_.observed_ns);
    const double max_age_s = max_chunk_age_s(num_rows());
    if (age_s > max_age_s) refuse({Fault::kLateChunk, -1, age_s, max_age_s});
    return;
  }
  if (settings_.mode == Mode::kSync) return;
  faults_.set(Fault::kStarved, true, -1, static_cast<double>(executed_),
              static_cast<double>(num_rows()));
}

void ControlCore::ask(const Tick& tick) noexcept {
  if (!takes_chunks() || mailbox_->status() != ChunkMailbox::Status::kFree) return;
  if (tick.now_ns < ask_after_ns_ || faults_.first_block() != Fault::kNone) return;
  // From a standing robot, unless the running chunk is about to be replaced.
  const bool is_due =
      has_row() ? settings_.mode == Mode::kAsync && executed_ >= settings_.execution_horizon - lead_
                : is_at_rest();
  if (!is_due) return;
  asked_ns_ = tick.now_ns;
  mailbox_->post(next_index_++, session_.load(std::memory_order_relaxed));
}

}  // namespace flux
