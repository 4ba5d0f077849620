// Sessions with all kinds of trouble, recorded and run again: every byte of the records is the
// same.
#include "flux/session_replay.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "check.hpp"
#include "core_rig.hpp"

namespace flux::test {
namespace {

using Status = ChunkMailbox::Status;

SafetyLimits rig_limits() {
  constexpr std::size_t kDim = CoreRig::kDim;
  return {std::vector<double>(kDim, -1.0), std::vector<double>(kDim, 1.0),
          std::vector<double>(kDim, 1.0), std::vector<double>(kDim, 10.0),
          std::vector<double>(kDim, 500.0)};
}

ActionDecoder plain_decoder() {
  const std::vector<float> ones(CoreRig::kDim, 1.0F);
  const std::vector<float> zeros(CoreRig::kDim, 0.0F);
  const std::vector<std::uint8_t> mask(CoreRig::kDim, 0);
  return {ones, zeros, mask};
}

// A rig that keeps what a recording keeps.
struct Recording : CoreRig {
  struct Chunk {
    InferenceRequest request;
    std::vector<float> actions;
    std::int64_t observed_ns = 0;
  };

  explicit Recording(RealtimeSettings settings = {})
      : CoreRig(settings), settings(std::move(settings)) {
    this->settings.control_hz = kCoreHz;
    if (this->settings.execution_horizon == 1) this->settings.execution_horizon = 5;
  }

  void begin(bool is_confirmed = false, std::uint64_t max_ticks = 0) {
    (void)records();
    (void)events();
    core->set_max_ticks(max_ticks);
    CHECK_FAULT(start(is_confirmed).fault, Fault::kNone);
    recorded.clear();
    chunks.clear();
  }

  // Takes the open request, if there is one; its answer may come later.
  bool take() {
    if (open) return true;
    open = mailbox->take(link->now_ns);
    return open.has_value();
  }
  void answer_with(std::vector<float> actions, std::int64_t age_ns = 0) {
    const std::int64_t observed_ns = link->now_ns - age_ns;
    chunks[open->ticket] = {*open, actions, observed_ns};
    mailbox->answer(*open, actions, observed_ns);
    open.reset();
  }
  void answer_rows(float first, float step = 0.0F, int rows = 10, std::int64_t age_ns = 0) {
    std::vector<float> actions;
    for (int row = 0; row < rows; ++row) {
      actions.insert(actions.end(), kDim, first + step * static_cast<float>(row));
    }
    answer_with(std::move(actions), age_ns);
  }
  // Ticks during which every request is answered with the last command.
  void go(int count) {
    for (int i = 0; i < count; ++i) {
      if (take()) answer_rows(command(), 0.002F);
      tick();
    }
  }

  std::vector<std::byte> records() {
    const std::size_t count = core->ticks().size();
    std::vector<std::byte> bytes(core->layout().bytes * count);
    core->ticks().read(bytes.data(), count);
    recorded.insert(recorded.end(), bytes.begin(), bytes.end());
    return bytes;
  }

  RealtimeSettings settings;
  std::optional<InferenceRequest> open;
  std::vector<std::byte> recorded;
  std::map<std::uint64_t, Chunk> chunks;
};

// What a replay may number differently.
void forget_ticket(std::byte* record, const TickLayout& layout) {
  const std::uint64_t none = 0;
  std::memcpy(record + layout.inputs + offsetof(TickInputs, ticket), &none, sizeof(none));
  std::memcpy(record + layout.inputs + offsetof(TickInputs, epoch), &none, sizeof(none));
  // Posted or taken is the same to the core.
  TickInputs inputs;
  std::memcpy(&inputs, record + layout.inputs, sizeof(inputs));
  if (inputs.mailbox == static_cast<std::uint8_t>(Status::kPosted)) {
    inputs.mailbox = static_cast<std::uint8_t>(Status::kTaken);
    std::memcpy(record + layout.inputs, &inputs, sizeof(inputs));
  }
}

void check_same_event(const Event& left, const Event& right) {
  CHECK_EQUAL(left.time_ns, right.time_ns);
  CHECK_EQUAL(left.tick, right.tick);
  CHECK_FAULT(left.fault, right.fault);
  CHECK(left.kind == right.kind);
  CHECK_EQUAL(left.index, right.index);
  CHECK(std::memcmp(&left.value, &right.value, sizeof(double)) == 0);
  CHECK(std::memcmp(&left.limit, &right.limit, sizeof(double)) == 0);
}

void check_same_events(const std::vector<Event>& recorded, const std::vector<Event>& replayed) {
  CHECK_EQUAL(recorded.size(), replayed.size());
  for (std::size_t i = 0; i < recorded.size(); ++i) check_same_event(recorded[i], replayed[i]);
}

// Runs the last session again and compares every record and event.
void check_replay(Recording& rig) {
  (void)rig.records();
  const std::vector<Event> events = rig.events();
  SessionReplay replay(rig.settings, nullptr, plain_decoder(), rig_limits(), CoreRig::kDim, 2);
  for (const auto& [ticket, chunk] : rig.chunks) replay.add_request(chunk.request);
  CHECK_FAULT(replay.start(rig.core->session_start()).fault, Fault::kNone);
  const TickLayout& layout = replay.layout();
  std::size_t done = 0;
  std::vector<std::byte> replayed;
  while (done * layout.bytes < rig.recorded.size() && !replay.has_ended()) {
    done += replay.run(std::span(rig.recorded).subspan(done * layout.bytes));
    const std::size_t count = replay.core().ticks().size();
    replayed.resize(replayed.size() + count * layout.bytes);
    replay.core().ticks().read(replayed.data() + replayed.size() - count * layout.bytes, count);
    if (!replay.waits_for_chunk()) continue;
    const Recording::Chunk& chunk = rig.chunks.at(replay.recorded_ticket());
    replay.inference()->mailbox().answer(replay.request(), chunk.actions, chunk.observed_ns);
  }
  CHECK_EQUAL(replayed.size(), rig.recorded.size());
  std::vector<std::byte> recorded = rig.recorded;
  for (std::size_t at = 0; at < recorded.size(); at += layout.bytes) {
    forget_ticket(recorded.data() + at, layout);
    forget_ticket(replayed.data() + at, layout);
    CHECK(std::memcmp(recorded.data() + at, replayed.data() + at, layout.bytes) == 0);
  }
  std::vector<Event> again(replay.core().events().size());
  replay.core().events().read(reinterpret_cast<std::byte*>(again.data()), again.size());
  check_same_events(events, again);
}

// Everything that can happen at a tick, with a chance each.
class Trouble {
 public:
  Trouble(Recording& rig, unsigned seed) : rig_(rig), random_(seed) {}

  void tick() {
    change_robot();
    serve();
    ask();
    if (chance(0.01)) rig_.pause(1 + whole(6));
    rig_.tick(chance(0.1) ? whole(30) * 1'000'000 : whole(400) * 1'000);
  }

 private:
  bool chance(double share) { return std::uniform_real_distribution<>(0.0, 1.0)(random_) < share; }
  int whole(int below) { return std::uniform_int_distribution<>(0, below - 1)(random_); }

  void change_robot() {
    FakeLink& link = *rig_.link;
    link.has_new_states = !chance(0.1);
    link.frames[0] = chance(0.05) ? 1 : 0;
    link.is_acknowledging = !chance(0.2);
    link.has_heartbeat = !chance(0.1);
    if (chance(0.01)) ++link.driver.refused_steps;
    if (chance(0.02)) ++link.driver.dropped_old;
    if (chance(0.03)) link.state[0] += 0.2F;
    if (chance(0.05)) link.speed_scaling = std::min(0.25 * whole(8), 1.0);
    if (chance(0.004)) link.driver.phase = DriverPhase::kStopped;
  }

  // Takes requests sooner or later; answers come later still, and in all ways.
  void serve() {
    if (!rig_.open) {
      if (!chance(0.5) || !rig_.take()) return;
    }
    if (!chance(0.5)) return;
    if (chance(0.06)) {
      rig_.mailbox->fail(*rig_.open, "no");
      rig_.open.reset();
    } else if (chance(0.06)) {
      rig_.mailbox->give_up(*rig_.open);
      rig_.open.reset();
    } else if (chance(0.05)) {
      rig_.answer_with(std::vector<float>(20, std::numeric_limits<float>::quiet_NaN()));
    } else {
      const float jump = chance(0.1) ? 0.6F : 0.0F;
      rig_.answer_rows(rig_.command() + jump, 0.01F * static_cast<float>(whole(9) - 4),
                       6 + whole(8), chance(0.05) ? 3'000'000'000 : 1'000'000);
    }
  }

  void ask() {
    if (chance(0.002)) rig_.signal = 2;
    if (chance(0.004)) rig_.core->request_stop(static_cast<StopCategory>(whole(3)));
    if (chance(0.004)) rig_.core->request_finish();
  }

  Recording& rig_;
  std::mt19937 random_;
};

bool is_running(const Recording& rig) {
  return rig.phase() != LoopPhase::kIdle && rig.phase() != LoopPhase::kStopped;
}

void clear_faults(Recording& rig) {
  FakeLink& link = *rig.link;
  link.has_new_states = link.has_heartbeat = link.is_acknowledging = true;
  link.driver.phase = DriverPhase::kReady;
  link.speed_scaling = 1.0;
  std::ranges::fill(link.state, 0.2F);
  rig.signal = 0;
}

RealtimeSettings settings_of(unsigned seed) {
  RealtimeSettings settings;
  constexpr Mode kModes[] = {Mode::kAsync, Mode::kSync, Mode::kRtc, Mode::kEnsemble};
  settings.mode = kModes[seed % 4];
  settings.continuation.delays = {0, 2, 4};
  settings.continuation.method =
      seed % 8 < 4 ? ContinuationMethod::kPrefix : ContinuationMethod::kGuidance;
  settings.first_latency_s = 0.03;
  settings.command_hz = seed % 5 < 3 ? 0.0 : 120.0;
  settings.speed = seed % 7 < 5 ? 1.0 : 0.6;
  settings.hold_for_s = seed % 3 == 0 ? 0.4 : 5.0;
  settings.max_following_error = {0.5, 0.5};
  settings.max_border_jump = {0.5, 0.5};
  settings.cameras = {0, 1};
  if (seed % 6 < 2) {
    settings.slow_start_s = 0.2;
    settings.slow_start_speed = 0.3;
    settings.grippers = {.closes_below = {std::numeric_limits<double>::quiet_NaN(), 0.2},
                         .closed_command = {0.0, -0.4}};
  }
  return settings;
}

void sessions_with_all_kinds_of_trouble_run_again() {
  std::map<std::string, std::uint64_t> seen;
  for (unsigned seed = 0; seed < 150; ++seed) {
    Recording rig(settings_of(seed));
    Trouble trouble(rig, seed);
    for (int session = 0; session < 3; ++session) {
      if (session == 2) rig.link->state[0] = 1.02F;  // to be led back
      rig.core->set_slow_start(session != 1);
      rig.begin(true, seed % 5 == 0 ? 40 : 0);
      for (int i = 0; i < 120 && is_running(rig); ++i) trouble.tick();
      check_replay(rig);
      for (const FaultInfo& info : kFaults) seen[info.name] += rig.count(info.fault);
      rig.core->request_stop(StopCategory::kPowerOff);
      rig.ticks(3);
      clear_faults(rig);
    }
  }
  for (const char* name : {"non_finite_chunk",
                           "border_jump",
                           "late_chunk",
                           "inference_failed",
                           "starved",
                           "state_stale",
                           "frame_stale",
                           "driver_silent",
                           "unacknowledged",
                           "command_dropped",
                           "step_refused",
                           "driver_stopped",
                           "gap",
                           "missed_tick",
                           "held_too_long",
                           "operator_stop",
                           "signal",
                           "return_to_limits",
                           "velocity",
                           "rtc_late"}) {
    if (seen[name] == 0) throw Failure(std::string("the trouble never caused ") + name);
  }
}

// The last session's inference ends in the next one, and its chunk is not executed.
void an_inference_of_the_last_session_is_refused_again() {
  Recording rig;
  rig.begin();
  rig.go(20);
  while (!rig.take()) rig.tick();
  rig.core->request_finish();
  rig.ticks(100);
  CHECK_PHASE(rig, LoopPhase::kIdle);
  const InferenceRequest late = *rig.open;
  rig.open.reset();
  rig.begin();
  rig.ticks(5);
  rig.mailbox->answer(late, std::vector<float>(20, 0.9F), rig.link->now_ns);
  rig.tick();
  rig.go(30);
  CHECK(rig.core->counts().chunks.get() > 1U);
  check_replay(rig);
}

void a_start_with_another_state_is_refused() {
  Recording rig;
  rig.begin();
  rig.go(3);
  SessionReplay replay(rig.settings, nullptr, plain_decoder(), rig_limits(), CoreRig::kDim, 2);
  SessionStart start = rig.core->session_start();
  start.state.push_back(0.0F);
  CHECK_CONTAINS(message_of<std::invalid_argument>([&] { (void)replay.start(start); }),
                 "expected 2 values, got 3");
}

}  // namespace

std::vector<Case> session_replay_cases() {
  return {
      {"sessions with all kinds of trouble run again",
       sessions_with_all_kinds_of_trouble_run_again},
      {"an inference of the last session is refused again",
       an_inference_of_the_last_session_is_refused_again},
      {"a start with another state is refused", a_start_with_another_state_is_refused},
  };
}

}  // namespace flux::test
