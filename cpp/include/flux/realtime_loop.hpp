// The control thread: at every time on an absolute grid it reads the robot's state, decides, and
// sends one command. It waits for nothing but the next tick.
//
//   loop.start(session);
//   while (auto request = loop.wait_for_request(0.1)) loop.inference()->infer(*request, ...);
//   loop.finish() or loop.stop(category, reason); loop.wait_until_ended(timeout_s);
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "flux/action_decoder.hpp"
#include "flux/chunk_inference.hpp"
#include "flux/control_core.hpp"
#include "flux/mode.hpp"
#include "flux/policy.hpp"
#include "flux/realtime_settings.hpp"
#include "flux/robot_link.hpp"
#include "flux/safety_filter.hpp"
#include "flux/scheduling.hpp"

namespace flux {

class RealtimeLoop {
 public:
  // Starts the thread, which sends the driver a heartbeat from now on, with or without a session.
  //
  // Args:
  //   policy: may be null; chunks then come only from ChunkInference::submit().
  //   watches_signals: whether a signal that StopSignals has seen stops the loop.
  //
  // Throws std::invalid_argument, naming the values, unless the arguments fit each other.
  RealtimeLoop(const RealtimeSettings& settings, std::shared_ptr<Policy> policy,
               const ActionDecoder& decoder, const SafetyLimits& limits,
               std::shared_ptr<RobotLink> link, bool watches_signals = false);
  RealtimeLoop(const RealtimeLoop&) = delete;
  RealtimeLoop& operator=(const RealtimeLoop&) = delete;
  // Like close(). Does not wait for an inference.
  ~RealtimeLoop();

  // Starts a session from the measured state. Throws std::invalid_argument, naming the joint,
  // expected and found, if the robot cannot be started; std::logic_error if a session is running or
  // the loop is closed.
  //
  // Args:
  //   max_ticks: of running and holding, after which the session finishes by itself; 0 for never.
  //   is_slow: whether it begins as slowly as the settings say.
  //   mode: how its chunks follow each other, if not as the settings say.
  void start(std::uint64_t session, bool is_return_confirmed = false, std::uint64_t max_ticks = 0,
             bool is_slow = true, std::optional<Mode> mode = {});

  // The next request for a chunk; empty if none comes in time. Its observation must be taken after
  // this has returned. One inference thread calls it.
  [[nodiscard]] std::optional<InferenceRequest> wait_for_request(double timeout_s);
  // Whoever infers keeps the shared_ptr meanwhile.
  [[nodiscard]] const std::shared_ptr<ChunkInference>& inference() const noexcept {
    return inference_;
  }

  // Ends the session: brakes to rest, without a stop of the robot.
  void finish() noexcept { core_.request_finish(); }
  // Stops the robot, at the next tick. Latched: only start() leaves a stop.
  void stop(StopCategory category, const std::string& reason);
  // Returns whether the session has ended, in a stop or by finish().
  [[nodiscard]] bool wait_until_ended(double timeout_s) const;
  // Stops the robot if a session is running, tells the driver that none will follow, and ends the
  // thread. Takes no longer than braking.
  void close() noexcept;

  [[nodiscard]] LoopStatus status() const noexcept { return core_.status(); }
  // Why the loop has stopped, in one line; empty if it has not.
  [[nodiscard]] std::string reason() const;
  [[nodiscard]] ControlCore& core() noexcept { return core_; }
  [[nodiscard]] const ControlCore& core() const noexcept { return core_; }
  // The time spent in ticks.
  [[nodiscard]] const Histogram& tick_times() const noexcept { return tick_times_; }
  [[nodiscard]] const Scheduling& scheduling() const noexcept { return scheduling_; }
  [[nodiscard]] const RealtimeSettings& settings() const noexcept { return settings_; }

 private:
  enum class StartState : int { kNone, kAsked, kDone };

  void run() noexcept;
  void answer_start(std::int64_t now_ns) noexcept;
  [[nodiscard]] bool has_session() const noexcept;
  [[noreturn]] void refuse_start(const Cause& cause) const;

  RealtimeSettings settings_;
  SafetyLimits limits_;
  std::shared_ptr<ChunkInference> inference_;
  ControlCore core_;
  Histogram tick_times_;
  Scheduling scheduling_;

  std::mutex callers_;  // never taken by the control thread
  mutable std::mutex reason_mutex_;
  std::string operator_reason_;
  std::atomic<StartState> start_state_{StartState::kNone};
  std::uint64_t start_session_ = 0;
  bool is_return_confirmed_ = false;
  std::uint64_t start_max_ticks_ = 0;
  bool start_is_slow_ = true;
  Mode start_mode_ = Mode::kAsync;
  Cause start_cause_;
  std::atomic<bool> is_closing_{false};
  std::thread thread_;
};

}  // namespace flux
