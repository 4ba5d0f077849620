// The control loop: fixed-rate ticks, chunks that come and go, and a filter behind them.
//
// One thread, the control thread, calls everything here. Per step of the robot:
//
//   if (loop.needs_observation()) loop.submit(inputs, state, noise);
//   loop.wait_for_tick();
//   const std::uint32_t flags = loop.tick();  // then send loop.command()
//
// Ticks are numbered. With the monotonic clock they are points of an absolute grid, and those that
// passed while the loop was late are skipped; with the simulated clock each call is the next one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "flux/action_decoder.hpp"
#include "flux/chunk_scheduler.hpp"
#include "flux/clock.hpp"
#include "flux/inference_worker.hpp"
#include "flux/policy.hpp"
#include "flux/safety_filter.hpp"

namespace flux {

enum class Mode {
  kSync,   // submit() infers; the robot holds meanwhile
  kAsync,  // submit() wakes the inference thread; the running chunk goes on meanwhile
};

enum class Timing {
  kSimulated,  // a chunk takes over exactly inference_delay ticks after its observation
  kMonotonic,  // a chunk takes over as soon as it is ready
};

struct ControlLoopConfig {
  double control_hz = 0.0;
  // Ticks that a chunk is executed before the next takes over.
  int execution_horizon = 1;
  Mode mode = Mode::kSync;
  Timing timing = Timing::kSimulated;
  // In control steps; kAsync with kSimulated only.
  int inference_delay = 0;
  // How much older than its own duration a chunk's observation may be.
  double stale_after_s = 1.0;
};

// Ticks, or chunks, since start(). Violations are ticks in which the policy asked for too much.
struct ControlCounts {
  std::uint64_t ticks = 0;
  std::uint64_t deadline_misses = 0;
  std::uint64_t held_ticks = 0;
  std::uint64_t chunks = 0;
  std::uint64_t non_finite = 0;
  std::uint64_t position = 0;
  std::uint64_t velocity = 0;
  std::uint64_t stale = 0;
};

class ControlLoop {
 public:
  // Args:
  //   policy: may be null; then only submit_chunk gives chunks.
  //   clock: tells the time and waits; simulated or not, as config.timing says.
  //   wall: measures how long work took; the machine's clock unless a test brings another.
  //
  // Throws std::invalid_argument, naming the numbers, unless control_hz > 0, stale_after_s >= 0,
  // decoder and limits have one action_dim, 1 <= execution_horizon <= H and
  // 0 <= inference_delay <= min(execution_horizon, H - execution_horizon).
  ControlLoop(const ControlLoopConfig& config, std::shared_ptr<Policy> policy,
              const ActionDecoder& decoder, const SafetyLimits& limits,
              std::unique_ptr<Clock> clock,
              std::unique_ptr<Clock> wall = std::make_unique<MonotonicClock>());

  [[nodiscard]] std::size_t action_dim() const noexcept { return filter_.action_dim(); }
  // Null if the loop was built without.
  [[nodiscard]] const Policy* policy() const noexcept;

  // Holds `command`, (A), until the first chunk. Throws std::invalid_argument unless it is finite
  // and of length A, std::logic_error if called twice.
  void start(std::span<const float> command);

  // Whether a chunk is wanted and none is on its way. Throws what a failed inference threw, once;
  // ticks hold from the failure until the next chunk.
  [[nodiscard]] bool needs_observation();

  // Gives the observation of the coming tick. Throws as needs_observation() and Policy::check
  // do, and std::logic_error if a chunk is on its way already.
  void submit(std::span<const TensorView> inputs, std::span<const float> state,
              std::span<const float> noise);

  // Schedules (rows, A) actions in robot units from the coming tick on. Throws
  // std::invalid_argument unless rows >= execution_horizon.
  void submit_chunk(std::span<const float> actions);

  // Waits for the next tick, and with the simulated clock also for a chunk that is due at it.
  // Returns how late the tick begins, in seconds.
  double wait_for_tick();

  // With the simulated clock: waits for the inference whose chunk is due at the coming tick.
  void wait_for_due_chunk() noexcept;

  // Waits for the inference in flight, whenever its chunk is due.
  void wait_for_inference() noexcept;

  // Makes the next command and returns its TickFlags. Never allocates, locks, throws or waits.
  [[nodiscard]] std::uint32_t tick() noexcept;

  // What tick() made, (A).
  [[nodiscard]] std::span<const float> command() const noexcept { return filter_.command(); }

  // Waits for the inference in flight and ends the thread. Ticks hold from now on.
  void stop() noexcept;

  [[nodiscard]] bool is_started() const noexcept { return is_started_; }
  [[nodiscard]] const ControlCounts& counts() const noexcept { return counts_; }
  // The C++ work of ticks.
  [[nodiscard]] const Histogram& tick_times() const noexcept { return tick_times_; }
  // How late ticks began.
  [[nodiscard]] const Histogram& jitter() const noexcept { return jitter_; }
  // Null without a policy.
  [[nodiscard]] const FlowHistograms* inference_times() const noexcept;

 private:
  void require_running(const char* call) const;
  void require_no_failure();
  void submit_now(std::span<const TensorView> inputs, std::span<const float> state,
                  std::span<const float> noise);
  [[nodiscard]] double period_s() const noexcept;
  // Number of the coming tick as chunks count it: in sync mode no tick is skipped.
  [[nodiscard]] std::int64_t index() const noexcept;
  // Whether chunks take over inference_delay ticks after their observation.
  [[nodiscard]] bool has_delay() const noexcept;
  void take_chunk() noexcept;
  void activate(Chunk& chunk) noexcept;
  [[nodiscard]] std::uint32_t move() noexcept;
  [[nodiscard]] bool is_stale() const noexcept;
  void count(std::uint32_t flags) noexcept;
  void count_miss(double tick_seconds, std::uint32_t flags) noexcept;

  ControlLoopConfig config_;
  SafetyFilter filter_;
  ChunkScheduler scheduler_;
  std::unique_ptr<Clock> clock_;
  std::unique_ptr<Clock> wall_;
  std::unique_ptr<InferenceWorker> worker_;

  bool is_started_ = false;
  bool is_stopped_ = false;
  bool has_failed_ = false;
  bool is_new_chunk_ = false;
  bool is_late_ = false;
  // A chunk of submit_chunk that has not yet begun.
  Chunk ready_chunk_;
  bool has_ready_chunk_ = false;
  // Of the worker's request: its observation, and when its chunk takes over with the simulated
  // clock.
  std::int64_t observed_tick_ = 0;
  std::int64_t observed_ns_ = 0;
  std::int64_t due_tick_ = 0;
  std::int64_t next_tick_ = 0;
  // Of tick 0; set by the first wait.
  std::int64_t origin_ns_ = 0;
  bool has_origin_ = false;
  // Inference within submit(), charged to the coming tick.
  double submit_seconds_ = 0.0;

  ControlCounts counts_;
  Histogram tick_times_;
  Histogram jitter_;
};

}  // namespace flux
