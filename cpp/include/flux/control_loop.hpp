// The control loop of simulated time: ticks that send the current chunk's actions through a safety
// filter. RealtimeLoop is the one of real time.
//
// One thread calls these functions. Per control step:
//
//   if (loop.needs_observation()) loop.submit(inputs, state, noise);
//   loop.wait_for_due_chunk();
//   const std::uint32_t flags = loop.tick();  // then send loop.command()
//
// Each call of tick() is one control period later than the last one, however long it really takes,
// so that a run is the same on every machine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "flux/action_decoder.hpp"
#include "flux/chunk_player.hpp"
#include "flux/clock.hpp"
#include "flux/continuation.hpp"
#include "flux/gripper_threshold.hpp"
#include "flux/inference_worker.hpp"
#include "flux/mode.hpp"
#include "flux/policy.hpp"
#include "flux/safety_filter.hpp"

namespace flux {

struct ControlLoopConfig {
  double control_hz = 0.0;
  // Rows of a chunk that are executed before the next one takes over.
  int execution_horizon = 1;
  Mode mode = Mode::kSync;
  // Ticks from an observation until its chunk takes over; with kSync, the robot stands meanwhile.
  int inference_delay = 0;
  // A chunk is stale once its observation is older than the chunk's duration plus this time.
  double stale_after_s = 1.0;
  // Rows executed per tick, above 0 and at most 1.
  double speed = 1.0;
  // How chunks continue each other with kRtc.
  ContinuationSettings continuation = {};
  // Between a chunk's rows and the safety filter.
  GripperThresholds grippers = {};
};

// Counts since start(): `chunks` counts chunks, everything else ticks. The last four are
// violations: ticks with an unusable action or one outside the limits.
struct ControlCounts {
  std::uint64_t ticks = 0;
  std::uint64_t deadline_misses = 0;
  std::uint64_t held_ticks = 0;
  std::uint64_t chunks = 0;
  std::uint64_t non_finite = 0;
  std::uint64_t position = 0;
  std::uint64_t velocity = 0;
  std::uint64_t stale = 0;
  // With kRtc: chunks by the rows that they were given, 0 to H.
  std::vector<std::uint64_t> prefixes = {};
};

class ControlLoop {
 public:
  // Args:
  //   policy: may be null; chunks then come only from submit_chunk().
  //   wall: measures how long work takes; the machine's clock except in tests.
  //
  // Throws std::invalid_argument, naming the values, unless control_hz > 0, stale_after_s >= 0,
  // 0 < speed <= 1, decoder and limits have the same action_dim, 1 <= execution_horizon <= H and
  // the delay d = ceil(inference_delay * speed), in rows, suits the mode. kAsync:
  // d <= min(execution_horizon, H - execution_horizon). kEnsemble: 2 d <= H. kRtc: `continuation`
  // has a usable delay of at least d, and the policy can continue chunks.
  ControlLoop(const ControlLoopConfig& config, std::shared_ptr<Policy> policy,
              const ActionDecoder& decoder, const SafetyLimits& limits,
              std::unique_ptr<Clock> wall = std::make_unique<MonotonicClock>());

  [[nodiscard]] std::size_t action_dim() const noexcept { return filter_.action_dim(); }
  // Null if the loop has no policy.
  [[nodiscard]] const Policy* policy() const noexcept;

  // Holds `command`, (A), until the first chunk. Throws std::invalid_argument unless it is finite
  // and of length A, std::logic_error if called twice.
  void start(std::span<const float> command);

  // Whether a chunk is needed and none is pending. With kEnsemble and kRtc, waits for a chunk that
  // is due at the coming tick and begins it. Reports a failed inference once, as
  // std::runtime_error; ticks hold from the failure until the next chunk.
  [[nodiscard]] bool needs_observation();

  // Submits the observation for the coming tick. Throws like needs_observation() and Policy::check,
  // and std::logic_error if a chunk is already pending.
  void submit(std::span<const TensorView> inputs, std::span<const float> state,
              std::span<const float> noise);

  // Schedules actions (rows, A), in robot units, from the coming tick on. Throws
  // std::invalid_argument unless rows >= execution_horizon.
  void submit_chunk(std::span<const float> actions);

  // Waits for the inference whose chunk is due at the coming tick, if there is one.
  void wait_for_due_chunk() noexcept;

  // Waits for the inference in flight, no matter when its chunk is due.
  void wait_for_inference() noexcept;

  // Computes the next command and returns its TickFlags. Never allocates, locks, throws or waits.
  [[nodiscard]] std::uint32_t tick() noexcept;

  // The last command computed by tick(), (A).
  [[nodiscard]] std::span<const float> command() const noexcept { return filter_.command(); }
  // What the last tick asked of the safety filter, (A); NaN if it held.
  [[nodiscard]] std::span<const float> asked() const noexcept { return asked_; }

  // Waits for the inference in flight and stops its thread. All later ticks hold.
  void stop() noexcept;

  [[nodiscard]] bool is_started() const noexcept { return is_started_; }
  [[nodiscard]] const ControlCounts& counts() const noexcept { return counts_; }
  // The time spent in tick().
  [[nodiscard]] const Histogram& tick_times() const noexcept { return tick_times_; }
  // How late ticks started: always 0 on simulated time.
  [[nodiscard]] const Histogram& jitter() const noexcept { return jitter_; }
  // Null without a policy.
  [[nodiscard]] const FlowHistograms* inference_times() const noexcept;

 private:
  void require_running(const char* call) const;
  void require_no_failure();
  void submit_now(std::span<const TensorView> inputs, std::span<const float> state,
                  std::span<const float> noise);
  [[nodiscard]] double period_s() const noexcept;
  // Number of the coming tick.
  [[nodiscard]] std::int64_t index() const noexcept;
  [[nodiscard]] bool wants_chunk() const noexcept;
  [[nodiscard]] KnownRows known_rows() const noexcept;
  void take_ready_chunk() noexcept;
  void take_inferred_chunk() noexcept;
  void join(std::span<float> rows) const noexcept;
  void begin(std::vector<float>& rows) noexcept;
  void fail() noexcept;
  // In kSync, whether the robot stands because a chunk is not due yet.
  [[nodiscard]] bool is_waiting() const noexcept;
  [[nodiscard]] std::uint32_t move() noexcept;
  [[nodiscard]] bool is_stale() const noexcept;
  void count(std::uint32_t flags) noexcept;
  void count_miss(double tick_s) noexcept;

  ControlLoopConfig config_;
  // The rows before the end of a chunk's horizon at which the next chunk is asked for.
  int lead_ = 0;
  GripperThreshold grippers_;
  SafetyFilter filter_;
  ChunkPlayer player_;
  std::vector<float> asked_;  // (A)
  std::unique_ptr<Clock> wall_;
  std::unique_ptr<InferenceWorker> worker_;

  bool is_started_ = false;
  bool is_stopped_ = false;
  bool has_failed_ = false;
  bool is_new_chunk_ = false;
  bool is_late_ = false;
  // A chunk from submit_chunk() that has not started yet.
  std::vector<float> ready_chunk_;
  bool has_ready_chunk_ = false;
  // For the worker's last request: the tick of its observation, the one at which its chunk takes
  // over, the row with which it begins, and how many rows it was given.
  std::int64_t observed_tick_ = 0;
  std::int64_t due_tick_ = 0;
  std::int64_t first_row_ = 0;
  int prefix_len_ = 0;
  // Tick of the observation behind the running chunk.
  std::int64_t chunk_tick_ = 0;
  // Time that submit() spent on inference; counted towards the coming tick.
  double submit_s_ = 0.0;

  ControlCounts counts_;
  Histogram tick_times_;
  Histogram jitter_;
};

}  // namespace flux
