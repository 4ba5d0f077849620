#include "flux/session_replay.hpp"

#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "flux/tensor.hpp"

namespace flux {
namespace {

using Status = ChunkMailbox::Status;

std::shared_ptr<ChunkInference> make_inference(const RealtimeSettings& settings,
                                               std::shared_ptr<Policy> policy,
                                               const ActionDecoder& decoder,
                                               const SafetyLimits& limits) {
  const int action_horizon = policy != nullptr ? policy->action_horizon() : 0;
  const std::size_t rows = max_chunk_rows(settings, action_horizon);
  return std::make_shared<ChunkInference>(
      std::move(policy), decoder,
      std::make_shared<ChunkMailbox>(limits.action_dim(), rows, decoder.binary_mask()),
      settings.execution_horizon, settings.continuation);
}

}  // namespace

SessionReplay::SessionReplay(const RealtimeSettings& settings, std::shared_ptr<Policy> policy,
                             const ActionDecoder& decoder, const SafetyLimits& limits,
                             std::size_t state_dim, std::size_t num_cameras)
    : link_(std::make_shared<ReplayLink>(limits.action_dim(), state_dim, num_cameras)),
      inference_(make_inference(settings, std::move(policy), decoder, limits)),
      core_(checked(settings, *link_), limits, link_, inference_->shared_mailbox(), &signal_) {}

Cause SessionReplay::start(const SessionStart& start) {
  if (start.state.size() != link_->state_dim()) {
    throw std::invalid_argument(expected_got("state",
                                             std::to_string(link_->state_dim()) + " values",
                                             std::to_string(start.state.size())));
  }
  leave_last_request(start.mailbox);
  link_->show(start.sample, start.state, start.status);
  core_.set_max_ticks(start.max_ticks);
  core_.set_slow_start(start.is_slow);
  return core_.start(start.session, start.is_return_confirmed, start.now_ns);
}

// An inference of the last session may still run when a session starts, or be answered by then.
void SessionReplay::leave_last_request(Status status) {
  if (status == Status::kFree) return;
  ChunkMailbox& mailbox = inference_->mailbox();
  mailbox.post(0, 0);
  if (status == Status::kPosted) return;
  request_ = *mailbox.take();
  if (status == Status::kChunk) mailbox.answer(request_, {}, 0);
  if (status == Status::kFailed) mailbox.fail(request_, {});
  if (status == Status::kCancelled) mailbox.give_up(request_);
}

void SessionReplay::take() {
  ChunkMailbox& mailbox = inference_->mailbox();
  const auto recorded = requests_.find(recorded_ticket_);
  if (recorded == requests_.end()) {
    request_ = *mailbox.take();
    return;
  }
  // The mailbox finds out which rows are left, from where the robot was then.
  const ChunkProgress now = mailbox.progress();
  mailbox.set_progress(recorded->second.progress);
  request_ = *mailbox.take(recorded->second.taken_ns);
  mailbox.set_progress(now);
}

bool SessionReplay::prepare(const TickInputs& inputs) {
  ChunkMailbox& mailbox = inference_->mailbox();
  const auto recorded = static_cast<Status>(inputs.mailbox);
  recorded_ticket_ = inputs.ticket;
  // To the core, posted and taken are the same until it gives the request up.
  const bool is_taken = recorded == Status::kPosted
                            ? inputs.has_discarded != 0 && inputs.has_withdrawn == 0
                            : recorded != Status::kFree;
  if (is_taken && mailbox.status() == Status::kPosted) take();
  if (mailbox.status() != Status::kTaken) return true;
  if (recorded == Status::kFailed) mailbox.fail(request_, {});
  if (recorded == Status::kCancelled) mailbox.give_up(request_);
  if (recorded != Status::kChunk) return true;
  const auto known = requests_.find(recorded_ticket_);
  if (known != requests_.end() && known->second.epoch == inputs.epoch) {
    request_.epoch = mailbox.epoch();
    return false;
  }
  // Given up before it came, so that nobody looks at what it holds.
  request_.epoch = mailbox.epoch() - 1;
  mailbox.answer(request_, {}, 0);
  return true;
}

void SessionReplay::ask_as_recorded(const TickInputs& inputs) noexcept {
  signal_.store(inputs.signal);
  if (inputs.stop_request >= 0) {
    core_.request_stop(static_cast<StopCategory>(inputs.stop_request));
  }
  if (inputs.is_finish_requested != 0) core_.request_finish();
}

std::size_t SessionReplay::run(std::span<const std::byte> records) {
  const std::size_t bytes = layout().bytes;
  std::size_t done = 0;
  waits_for_chunk_ = false;
  for (; (done + 1) * bytes <= records.size(); ++done) {
    if (has_ended() || core_.ticks().is_full()) break;
    const std::span<const std::byte> record = records.subspan(done * bytes, bytes);
    TickHeader header;
    TickInputs inputs;
    std::memcpy(&header, record.data(), sizeof(header));
    std::memcpy(&inputs, record.data() + layout().inputs, sizeof(inputs));
    if (!prepare(inputs)) {
      waits_for_chunk_ = true;
      break;
    }
    ask_as_recorded(inputs);
    link_->show(layout(), record);
    core_.tick(header.deadline_ns, inputs.now_ns);
  }
  return done;
}

bool SessionReplay::has_ended() const noexcept {
  const LoopPhase phase = core_.status().phase;
  return phase == LoopPhase::kIdle || phase == LoopPhase::kStopped;
}

}  // namespace flux
