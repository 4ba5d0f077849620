// A ControlCore in simulated time, with a robot that the test can break.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "flux/control_core.hpp"
#include "flux/robot_link.hpp"

namespace flux::test {

inline constexpr double kCoreHz = 50.0;
inline constexpr std::int64_t kTickNs = 20'000'000;

// Follows each command at once, and acknowledges it. Everything can be frozen or changed.
class FakeLink final : public RobotLink {
 public:
  explicit FakeLink(std::size_t action_dim, std::size_t state_dim, std::size_t num_cameras)
      : state(state_dim), frames(num_cameras), action_dim_(action_dim) {}

  [[nodiscard]] std::size_t action_dim() const noexcept override { return action_dim_; }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return state.size(); }
  [[nodiscard]] std::size_t num_cameras() const noexcept override { return frames.size(); }

  StateSample read_state(std::span<float> out) noexcept override {
    if (has_new_states) captured_ns = now_ns;
    std::ranges::copy(state, out.begin());
    return {.captured_ns = captured_ns + state_offset_ns,
            .count = has_state ? 1U : 0U,
            .speed_scaling = speed_scaling};
  }
  [[nodiscard]] std::int64_t frame_captured_ns(std::size_t camera) const noexcept override {
    return frames[camera] != 0 ? frames[camera] : now_ns;
  }
  [[nodiscard]] LinkStatus status() const noexcept override { return driver; }
  std::int64_t send(std::span<const float> command, const CommandStamp& stamp) noexcept override {
    last = stamp;
    ++num_sent;
    if (is_following && command.size() == state.size()) std::ranges::copy(command, state.begin());
    if (is_acknowledging) driver.acknowledged = stamp.sequence;
    return now_ns + 50'000;
  }
  void beat(std::int64_t at_ns) noexcept override {
    ++num_beats;
    if (has_heartbeat) driver.heartbeat_ns = at_ns;
  }
  void announce(LinkPhase now, StopCategory how, std::uint64_t session) noexcept override {
    phase = now;
    category = how;
    if (takes_sessions) driver.session = session;
    if (now == LinkPhase::kRunning) driver.acknowledged = 0;
  }

  std::vector<float> state;
  std::vector<std::int64_t> frames;  // 0: always new
  LinkStatus driver{.phase = DriverPhase::kReady};
  std::int64_t now_ns = 1'000'000'000;
  std::int64_t captured_ns = 0;
  std::int64_t state_offset_ns = 0;
  double speed_scaling = 1.0;
  bool has_state = true;
  bool has_new_states = true;
  bool has_heartbeat = true;
  bool is_following = true;
  bool is_acknowledging = true;
  bool takes_sessions = true;
  CommandStamp last;
  std::uint64_t num_sent = 0;
  std::uint64_t num_beats = 0;
  LinkPhase phase = LinkPhase::kIdle;
  StopCategory category = StopCategory::kStopKeepPower;

 private:
  std::size_t action_dim_;
};

struct CoreRig {
  static constexpr std::size_t kDim = 2;

  explicit CoreRig(RealtimeSettings settings = {}, std::size_t state_dim = kDim,
                   std::span<const std::uint8_t> binary_mask = {})
      : link(std::make_shared<FakeLink>(kDim, state_dim, 2)),
        mailbox(std::make_shared<ChunkMailbox>(kDim, 16, binary_mask)) {
    settings.control_hz = kCoreHz;
    if (settings.execution_horizon == 1) settings.execution_horizon = 5;
    tick_ns = settings.period_ns();
    const std::vector<double> lower(kDim, -1.0);
    const std::vector<double> upper(kDim, 1.0);
    const std::vector<double> velocity(kDim, 1.0);
    const std::vector<double> acceleration(kDim, 10.0);
    const std::vector<double> jerk(kDim, 500.0);
    const bool has_motion = settings.rest_command.empty();
    const SafetyLimits limits = has_motion
                                    ? SafetyLimits(lower, upper, velocity, acceleration, jerk)
                                    : SafetyLimits(lower, upper, velocity);
    core = std::make_unique<ControlCore>(checked(settings, *link), limits, link, mailbox, &signal);
  }

  Cause start(bool is_confirmed = false) {
    return core->start(++session, is_confirmed, link->now_ns);
  }

  // One tick, `late_ns` after the next time on the grid.
  void tick(std::int64_t late_ns = 0) {
    deadline_ns += tick_ns;
    link->now_ns = deadline_ns + late_ns;
    core->tick(deadline_ns, link->now_ns);
  }
  void ticks(int count) {
    for (int i = 0; i < count; ++i) tick();
  }
  // Nothing happens for a time.
  void pause(std::int64_t periods) { deadline_ns += periods * tick_ns; }

  // Answers the open request with rows that move by `step` per row from `first`; false if there is
  // none.
  bool answer(float first, float step = 0.0F, int rows = 10, std::int64_t age_ns = 0) {
    const auto request = mailbox->take(link->now_ns);
    if (!request) return false;
    give(*request, first, step, rows, age_ns);
    return true;
  }
  void give(const InferenceRequest& request, float first, float step = 0.0F, int rows = 10,
            std::int64_t age_ns = 0) {
    std::vector<float> actions;
    for (int row = 0; row < rows; ++row) {
      actions.insert(actions.end(), kDim, first + step * static_cast<float>(row));
    }
    mailbox->answer(request, actions, link->now_ns - age_ns);
  }
  // Ticks during which each request is answered at once with the last command.
  void run(int count) {
    for (int i = 0; i < count; ++i) {
      answer(core->command()[0]);
      tick();
    }
  }

  [[nodiscard]] LoopPhase phase() const { return core->status().phase; }
  [[nodiscard]] Fault stopped_by() const { return core->status().cause.fault; }
  [[nodiscard]] std::uint64_t count(Fault fault) const { return core->faults().count(fault); }
  [[nodiscard]] float command() const { return core->command()[0]; }

  std::vector<Event> events() {
    std::vector<Event> all(core->events().size());
    core->events().read(reinterpret_cast<std::byte*>(all.data()), all.size());
    return all;
  }
  std::vector<TickHeader> headers() {
    const std::size_t bytes = core->layout().bytes;
    const std::size_t count = core->ticks().size();
    std::vector<std::byte> raw(bytes * count);
    core->ticks().read(raw.data(), count);
    std::vector<TickHeader> all(count);
    for (std::size_t i = 0; i < count; ++i) {
      std::memcpy(&all[i], raw.data() + i * bytes, sizeof(TickHeader));
    }
    return all;
  }

  std::shared_ptr<FakeLink> link;
  std::shared_ptr<ChunkMailbox> mailbox;
  std::atomic<int> signal{0};
  std::unique_ptr<ControlCore> core;
  std::int64_t tick_ns = kTickNs;
  std::int64_t deadline_ns = 1'000'000'000;
  std::uint64_t session = 0;
};

inline const char* name_of(Fault fault) { return info_of(fault).name; }

}  // namespace flux::test

#define CHECK_FAULT(fault, expected) \
  CHECK_EQUAL(std::string(flux::test::name_of(fault)), std::string(flux::test::name_of(expected)))
#define CHECK_PHASE(rig, expected) \
  CHECK_EQUAL(std::string(phase_name((rig).phase())), std::string(phase_name(expected)))
