// Both ends as threads over the same memory, for the thread sanitizer.
#include <algorithm>
#include <atomic>
#include <thread>

#include "driver_rig.hpp"

namespace flux::test {
namespace {

constexpr int kStates = 20'000;
constexpr int kFrames = 2'000;
constexpr std::uint64_t kCommands = 20'000;

// Every value of a message says the same number, so that a mixture of two is seen.
bool is_torn(const std::vector<float>& values, std::int64_t number) {
  return std::ranges::any_of(values,
                             [&](float value) { return value != static_cast<float>(number); });
}

bool is_torn(const FrameView& frame) {
  const auto wanted = static_cast<std::byte>(frame.captured_ns);
  return std::ranges::any_of(frame.pixels, [&](std::byte pixel) { return pixel != wanted; });
}

// Everything one end's threads found wrong.
struct Faults {
  std::atomic<int> torn{0};
  std::atomic<int> backwards{0};
};

void publish_states(const DriverRig& rig) {
  for (int i = 1; i <= kStates; ++i) {
    const std::vector<float> state(3, static_cast<float>(i));
    flux_driver_publish_state(rig.driver, state.data(), 3, i);
    flux_driver_beat(rig.driver);
  }
}

void publish_frames(const DriverRig& rig) {
  std::vector<std::uint8_t> image(4 * 6 * 3);
  for (int i = 1; i <= kFrames; ++i) {
    std::ranges::fill(image, static_cast<std::uint8_t>(i));
    flux_driver_publish_frame(rig.driver, 0, image.data(), 4, 6, i);
  }
}

// The driver's command thread: until it has the last command.
void take_commands(const DriverRig& rig, Faults& faults) {
  std::vector<float> values(3);
  FluxDriverCommand command{};
  std::uint64_t last = 0;
  while (last < kCommands) {
    const int result = flux_driver_wait_command(rig.driver, values.data(), &command, 1'000'000'000);
    if (result == FLUX_DRIVER_NOTHING) continue;
    if (is_torn(values, static_cast<std::int64_t>(command.sequence))) ++faults.torn;
    if (command.sequence <= last) ++faults.backwards;
    last = command.sequence;
    flux_driver_acknowledge(rig.driver, command.session, last);
  }
}

void watch_policy(const DriverRig& rig, std::atomic<std::uint32_t>& stop) {
  std::uint32_t category = 0;
  for (;;) {
    const int found = flux_driver_watch(rig.driver, &category);
    if (found == FLUX_DRIVER_CLOSED) return;
    if (found == FLUX_DRIVER_STOP) stop = category;
  }
}

void run_control_thread(DriverRig& rig, Faults& faults) {
  std::vector<float> state(3);
  std::uint64_t last = 0;
  for (std::uint64_t i = 1; i <= kCommands; ++i) {
    const StateSample sample = rig.link.read_state(state);
    if (is_torn(state, sample.captured_ns)) ++faults.torn;
    if (sample.count < last) ++faults.backwards;
    last = sample.count;
    rig.send(std::vector<float>(3, static_cast<float>(i)), 1, i);
    rig.link.beat(MonotonicClock().now_ns());
    (void)rig.link.frame_captured_ns(0);
    if (rig.link.status().acknowledged > i) ++faults.backwards;
  }
}

// The inference thread: until it has the last frame.
void observe(DriverRig& rig, Faults& faults) {
  std::vector<float> state(3);
  std::int64_t last = 0;
  while (last < kFrames) {
    const StateSample sample = rig.link.observe_state(state);
    if (is_torn(state, sample.captured_ns)) ++faults.torn;
    const FrameView frame = rig.link.observe_frame(0);
    if (is_torn(frame)) ++faults.torn;
    if (frame.captured_ns < last) ++faults.backwards;
    last = frame.captured_ns;
  }
}

void test_all_threads_of_both_ends_run_at_once() {
  SharedMemoryLinkConfig config = small_config(0.01);
  config.max_step.assign(3, 1e6);
  DriverRig rig(config);
  rig.publish_state({0, 0, 0}, 0);
  rig.begin(1);
  Faults faults;
  std::atomic<std::uint32_t> stop{9};
  {
    const std::jthread states([&] { publish_states(rig); });
    const std::jthread frames([&] { publish_frames(rig); });
    const std::jthread watching([&] { watch_policy(rig, stop); });
    std::jthread taking([&] { take_commands(rig, faults); });
    std::jthread observing([&] { observe(rig, faults); });
    run_control_thread(rig, faults);
    taking.join();
    observing.join();
    rig.link.announce(LinkPhase::kStopped, StopCategory::kStopThenPowerOff, 1);
    rig.link.announce(LinkPhase::kClosed, StopCategory::kStopThenPowerOff, 1);
  }
  CHECK_EQUAL(faults.torn.load(), 0);
  CHECK_EQUAL(faults.backwards.load(), 0);
  CHECK_EQUAL(stop.load(), 1U);
  CHECK_EQUAL(rig.link.status().refused_steps, 0U);
}

// The stop and the end of the connection are announced while the driver looks.
void test_a_stop_is_seen_although_the_connection_ends_at_once() {
  DriverRig rig(small_config(0.01));
  for (std::uint64_t session = 1; session <= 1000; ++session) {
    rig.begin(session);
    std::atomic<bool> is_watching{false};
    std::atomic<std::uint32_t> stop{9};
    std::thread watching([&] {
      is_watching = true;
      watch_policy(rig, stop);
    });
    while (!is_watching) std::this_thread::yield();
    rig.link.announce(LinkPhase::kStopped, StopCategory::kStopThenPowerOff, session);
    rig.link.announce(LinkPhase::kClosed, StopCategory::kStopThenPowerOff, session);
    watching.join();
    CHECK_EQUAL(stop.load(), 1U);
  }
}

}  // namespace

std::vector<Case> driver_memory_thread_cases() {
  return {{"all threads of both ends run at once", test_all_threads_of_both_ends_run_at_once},
          {"a stop is seen although the connection ends at once",
           test_a_stop_is_seen_although_the_connection_ends_at_once}};
}

}  // namespace flux::test
