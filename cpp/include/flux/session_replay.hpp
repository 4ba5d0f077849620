// Runs a recorded session of the control thread again: the same core and the same inference, fed
// with what was recorded. It has neither threads nor a clock.
//
//   replay.start(start);
//   for (std::size_t done = 0; done < num_ticks && !replay.has_ended();) {
//     done += replay.run(records from `done` on);
//     if (replay.waits_for_chunk()) replay.inference()->infer(replay.request(), ...);
//     // compare what replay.core().ticks() holds with the records
//   }
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>

#include "flux/action_decoder.hpp"
#include "flux/chunk_inference.hpp"
#include "flux/control_core.hpp"
#include "flux/policy.hpp"
#include "flux/realtime_settings.hpp"
#include "flux/replay_link.hpp"
#include "flux/safety_filter.hpp"

namespace flux {

class SessionReplay {
 public:
  // Args:
  //   policy: may be null; chunks then come only from ChunkInference::submit().
  //   state_dim, num_cameras: of the link of the recorded session.
  //
  // Throws std::invalid_argument, naming the values, unless the arguments fit each other.
  SessionReplay(const RealtimeSettings& settings, std::shared_ptr<Policy> policy,
                const ActionDecoder& decoder, const SafetyLimits& limits, std::size_t state_dim,
                std::size_t num_cameras);

  // A recorded request whose chunk is known, as the inference thread had taken it. Before run().
  void add_request(const InferenceRequest& request) { requests_[request.ticket] = request; }

  // Once, before run(). Returns why the core refuses the start; with the settings and limits of the
  // recorded session it does not.
  [[nodiscard]] Cause start(const SessionStart& start);

  // Runs recorded ticks, records of layout().bytes, and returns how many: fewer if the next one
  // needs a chunk, if the ring of the core's ticks is full, or if the session has ended.
  std::size_t run(std::span<const std::byte> records);

  // Whether the next tick needs the chunk of request(), to be given through inference().
  [[nodiscard]] bool waits_for_chunk() const noexcept { return waits_for_chunk_; }
  [[nodiscard]] const InferenceRequest& request() const noexcept { return request_; }
  // Ticket of the recorded request whose chunk that is.
  [[nodiscard]] std::uint64_t recorded_ticket() const noexcept { return recorded_ticket_; }
  [[nodiscard]] const std::shared_ptr<ChunkInference>& inference() noexcept { return inference_; }

  [[nodiscard]] bool has_ended() const noexcept;
  [[nodiscard]] ControlCore& core() noexcept { return core_; }
  [[nodiscard]] const TickLayout& layout() const noexcept { return core_.layout(); }

 private:
  void leave_last_request(ChunkMailbox::Status status);
  void take();
  // Brings the mailbox to where the recorded tick found it; false if that needs a chunk.
  [[nodiscard]] bool prepare(const TickInputs& inputs);
  void ask_as_recorded(const TickInputs& inputs) noexcept;

  std::shared_ptr<ReplayLink> link_;
  std::atomic<int> signal_{0};
  std::shared_ptr<ChunkInference> inference_;
  ControlCore core_;
  std::unordered_map<std::uint64_t, InferenceRequest> requests_;  // by recorded ticket
  InferenceRequest request_;
  std::uint64_t recorded_ticket_ = 0;
  bool waits_for_chunk_ = false;
};

}  // namespace flux
