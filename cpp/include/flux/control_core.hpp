// What the control thread does at a tick: which command is sent, and when the session stops. It has
// neither a thread nor a clock, so that tests can run it in simulated time.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "flux/chunk_mailbox.hpp"
#include "flux/chunk_player.hpp"
#include "flux/counter.hpp"
#include "flux/fault_watch.hpp"
#include "flux/faults.hpp"
#include "flux/histogram.hpp"
#include "flux/latency_window.hpp"
#include "flux/realtime_settings.hpp"
#include "flux/robot_link.hpp"
#include "flux/robot_watch.hpp"
#include "flux/safety_filter.hpp"
#include "flux/spsc_ring.hpp"
#include "flux/tick_record.hpp"

namespace flux {

// Counts since the session's start: `chunks` counts chunks, everything else ticks.
struct RealtimeCounts {
  Counter ticks;
  Counter deadline_misses;
  Counter held_ticks;
  Counter chunks;
};

struct LoopStatus {
  LoopPhase phase = LoopPhase::kIdle;
  std::uint64_t session = 0;
  Cause cause = {};    // of the stop
  Cause held_by = {};  // what held before a stop for holding too long
  StopCategory category = StopCategory::kStopKeepPower;
  bool is_at_rest = true;
};

// What a session began with, besides its settings: what start() was given and saw, and what the
// last session had left.
struct SessionStart {
  std::uint64_t session = 0;
  bool is_return_confirmed = false;
  bool is_slow = true;
  std::uint64_t max_ticks = 0;
  std::int64_t now_ns = 0;
  StateSample sample;
  std::vector<float> state;
  LinkStatus status;
  ChunkMailbox::Status mailbox = ChunkMailbox::Status::kFree;
};

class ControlCore {
 public:
  // Args:
  //   settings: checked ones.
  //   signal: the number of the first stop signal, 0 if none; may be null.
  //
  // Throws std::invalid_argument unless the limits have the link's action_dim.
  ControlCore(const RealtimeSettings& settings, const SafetyLimits& limits,
              std::shared_ptr<RobotLink> link, std::shared_ptr<ChunkMailbox> mailbox,
              const std::atomic<int>* signal = nullptr);

  // Any thread. Both take effect at the next tick.
  void request_stop(StopCategory category) noexcept;
  void request_finish() noexcept { is_finish_requested_.store(true); }
  // Before start(), on the control thread: the session finishes by itself after this many ticks of
  // running and holding; 0 for never.
  void set_max_ticks(std::uint64_t ticks) noexcept { max_ticks_ = ticks; }
  // Likewise: whether the session begins as slowly as the settings say.
  void set_slow_start(bool is_slow) noexcept { has_slow_start_ = is_slow; }
  // Likewise: how its chunks follow each other, kSync, kAsync or kEnsemble; as the settings say if
  // this is never called.
  void set_mode(Mode mode) noexcept { mode_ = mode; }

  // Control thread. Starts a session from the measured state, or returns why that is refused.
  [[nodiscard]] Cause start(std::uint64_t session, bool is_return_confirmed,
                            std::int64_t now_ns) noexcept;
  // Control thread. Never allocates, locks, throws or waits.
  //
  // Args:
  //   deadline_ns: the tick's time on the grid.
  //   now_ns: when the tick began.
  void tick(std::int64_t deadline_ns, std::int64_t now_ns) noexcept;
  // Control thread. Tells the driver that no session will follow.
  void close() noexcept;

  // Any thread.
  [[nodiscard]] LoopStatus status() const noexcept;
  [[nodiscard]] const RealtimeCounts& counts() const noexcept { return counts_; }
  [[nodiscard]] const FaultWatch& faults() const noexcept { return faults_; }
  // Between the times at which commands left.
  [[nodiscard]] const Histogram& intervals() const noexcept { return intervals_; }
  // From a tick's time on the grid until its command left.
  [[nodiscard]] const Histogram& jitter() const noexcept { return jitter_; }
  // By delay in rows, how many chunks were executed that began with so many known rows.
  [[nodiscard]] std::span<const Counter> delays() const noexcept { return delays_; }

  // Of the last session. Control thread, or whoever waited for its start.
  [[nodiscard]] const SessionStart& session_start() const noexcept { return session_start_; }

  // For one reading thread. Every tick of a session is recorded, also one that sent no command.
  [[nodiscard]] SpscRing& ticks() noexcept { return ticks_; }
  [[nodiscard]] SpscRing& events() noexcept { return events_; }

  // What a tick touches, to be kept from being paged out.
  [[nodiscard]] std::vector<std::span<const std::byte>> memory() const;

  [[nodiscard]] const TickLayout& layout() const noexcept { return layout_; }
  // The last command, (A). Control thread.
  [[nodiscard]] std::span<const float> command() const noexcept { return filter_.command(); }

 private:
  // The coming command, and what is recorded of it.
  struct Tick {
    TickHeader header;
    std::int64_t now_ns = 0;
    std::int64_t since_ns = 0;  // since the last command
    double dt_s = 0.0;          // of the safety filter
    double scaling = 1.0;       // of the speed, by the robot itself and a slow start
    double rate = 1.0;          // rows per tick
  };

  void note_start(std::uint64_t session, bool is_return_confirmed, std::int64_t now_ns) noexcept;
  void note_inputs(std::int64_t now_ns) noexcept;
  [[nodiscard]] ChunkMailbox::Status look_for_answer() noexcept;
  void rest_tick(std::int64_t now_ns) noexcept;
  void stop_at_rest(StopCategory category, std::int64_t now_ns) noexcept;
  [[nodiscard]] Tick begin_tick(std::int64_t deadline_ns, std::int64_t now_ns) noexcept;
  void note_lateness(Tick& tick) noexcept;
  void go_from_measured() noexcept;
  void restart_within_limits() noexcept;
  void take_requests() noexcept;
  void count_used(const Tick& tick) noexcept;
  void take_answer(const Tick& tick) noexcept;
  void accept(TimedChunk& chunk, const Tick& tick) noexcept;
  void activate(TimedChunk& chunk, const Tick& tick) noexcept;
  void begin(TimedChunk& chunk) noexcept;
  void join(TimedChunk& chunk) noexcept;
  [[nodiscard]] bool is_too_slow(const TimedChunk& chunk, const Tick& tick) noexcept;
  [[nodiscard]] Cause border_jump(std::span<const float> row) const noexcept;
  void refuse(const Cause& cause) noexcept;
  void fail_inference(const Tick& tick) noexcept;
  void discard() noexcept;
  void check_rows(const Tick& tick) noexcept;
  void note_slowness(const Tick& tick) noexcept;
  void update_hold(const Tick& tick) noexcept;
  void stop_if_held_too_long(const Tick& tick) noexcept;
  void move(Tick& tick) noexcept;
  void play(Tick& tick) noexcept;
  void brake(double dt_s) noexcept;
  void report_clips(std::uint32_t flags, std::span<const float> action) noexcept;
  void send(Tick& tick) noexcept;
  void record(Tick& tick) noexcept;
  void end_if_at_rest(const Tick& tick) noexcept;
  // Whether the robot has accepted a command at rest, or was given three periods to do so.
  [[nodiscard]] bool has_accepted_rest(const Tick& tick) noexcept;
  void ask(const Tick& tick) noexcept;
  // The share of the speed, of a session that begins slowly, in so many ticks.
  [[nodiscard]] double slow_start(std::uint64_t in_ticks) const noexcept;
  [[nodiscard]] bool is_chunk_due(int delay) const noexcept;
  // The rows that will be executed until the next chunk comes, as a delay that the policy can use.
  [[nodiscard]] int coming_delay(const Tick& tick) const noexcept;
  void publish_progress() noexcept;
  // Of the running chunk.
  [[nodiscard]] std::int64_t rows_left() const noexcept;
  void begin_stop(const Cause& cause, StopCategory category) noexcept;
  void end_session(LoopPhase phase) noexcept;
  void set_phase(LoopPhase phase) noexcept;

  [[nodiscard]] LoopPhase phase() const noexcept { return phase_.load(std::memory_order_relaxed); }
  [[nodiscard]] bool is_active() const noexcept;
  [[nodiscard]] bool takes_chunks() const noexcept;
  [[nodiscard]] bool is_at_rest() const noexcept;
  // The age of the observation behind a chunk, without the time for which the robot or a slow start
  // held it up, and how old it may be if the chunk has so many rows.
  [[nodiscard]] double chunk_age_s(std::int64_t observed_ns, const InferenceRequest& request,
                                   const Tick& tick) const noexcept;
  [[nodiscard]] double max_chunk_age_s(std::int64_t num_rows) const noexcept;

  RealtimeSettings settings_;
  Mode mode_;
  SafetyLimits limits_;
  std::shared_ptr<RobotLink> link_;
  std::shared_ptr<ChunkMailbox> mailbox_;
  const std::atomic<int>* signal_;
  std::int64_t period_ns_;
  double period_s_;
  TickLayout layout_;
  SpscRing ticks_;
  SpscRing events_;
  FaultWatch faults_;
  RobotWatch watch_;
  GripperThreshold grippers_;
  SafetyFilter filter_;
  std::vector<float> start_;  // (A), where the motion begins again
  SessionStart session_start_;
  TickInputs inputs_;  // of the running tick

  // Read by other threads.
  std::atomic<LoopPhase> phase_{LoopPhase::kIdle};
  std::atomic<std::uint64_t> session_{0};
  std::atomic<Fault> stop_fault_{Fault::kNone};
  std::atomic<int> stop_index_{-1};
  std::atomic<double> stop_value_{0.0};
  std::atomic<double> stop_limit_{0.0};
  std::atomic<Fault> held_by_{Fault::kNone};
  std::atomic<int> held_index_{-1};
  std::atomic<StopCategory> category_{StopCategory::kStopKeepPower};
  std::atomic<bool> is_at_rest_{true};
  RealtimeCounts counts_;
  Histogram intervals_;
  Histogram jitter_;

  // Written by other threads. The category of a stop, or -1.
  std::atomic<int> stop_request_{-1};
  std::atomic<bool> is_finish_requested_{false};
  std::uint64_t max_ticks_ = 0;
  std::uint64_t used_ticks_ = 0;  // of max_ticks_
  bool has_slow_start_ = true;
  std::uint64_t executed_ticks_ = 0;  // that executed rows

  std::uint64_t sequence_ = 0;
  std::int64_t last_tick_ns_ = 0;  // of the last command; 0 before the first
  std::int64_t last_sent_ns_ = 0;
  std::int64_t last_watch_ns_ = 0;
  std::int64_t held_ns_ = 0;     // because of faults, since a row was last executed
  std::int64_t blocked_ns_ = 0;  // likewise, because of those that no chunk ends
  std::int64_t stopping_since_ns_ = 0;
  // The first command at rest while a session ends, and when it was sent; 0 before.
  std::uint64_t rest_sequence_ = 0;
  std::int64_t rest_since_ns_ = 0;
  bool is_returning_ = false;

  // The running chunk.
  ChunkPlayer player_;
  InferenceRequest request_;
  std::int64_t observed_ns_ = 0;
  bool is_new_chunk_ = false;
  std::int64_t slowed_ns_ = 0;  // by the robot's own speed scaling and a slow start

  // The open request.
  std::uint64_t next_index_ = 0;
  std::int64_t asked_ns_ = 0;
  std::int64_t ask_after_ns_ = 0;
  double lead_ = 0.0;  // rows
  LatencyWindow latencies_;
  bool is_latency_known_ = false;  // of the open request
  std::vector<Counter> delays_;
  int failures_ = 0;
  int slow_chunks_ = 0;
  bool is_starved_fresh_ = false;
};

}  // namespace flux
