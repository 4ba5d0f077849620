#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "allocations.hpp"
#include "driver_rig.hpp"

namespace flux::test {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// The memory is read by programs that were compiled elsewhere: a change here is a new version.
static_assert(kMemoryVersion == 2 && FLUX_DRIVER_ABI == 2);
static_assert(sizeof(MemoryHeader) == 600 && alignof(MemoryHeader) == 8);
static_assert(offsetof(MemoryHeader, total_bytes) == 16);
static_assert(offsetof(MemoryHeader, max_step_offset) == 304);
static_assert(offsetof(MemoryHeader, frame_offsets) == 344);
static_assert(offsetof(MemoryShape, period_ns) == 16 && offsetof(MemoryShape, images) == 24);
static_assert(offsetof(DriverBlock, session) == 24);
static_assert(offsetof(DriverBlock, frame_captured_ns) == 128);
static_assert(sizeof(FluxDriverCommand) == 64 && sizeof(FluxDriverLayout) == 24);
static_assert(std::is_trivially_copyable_v<MemoryHeader>);
static_assert(static_cast<int>(LinkPhase::kClosed) == FLUX_DRIVER_CLOSED);
static_assert(static_cast<int>(DriverPhase::kClosed) == FLUX_DRIVER_CLOSING);

MemoryHeader header_of(int fd) {
  MemoryHeader header;
  CHECK_EQUAL(::pread(fd, &header, sizeof header, 0), static_cast<ssize_t>(sizeof header));
  return header;
}

// The error of opening a memory of `num_bytes` that starts with `header`.
std::string error_of(const MemoryHeader& header, std::uint64_t num_bytes,
                     int seals = F_SEAL_SHRINK | F_SEAL_GROW) {
  const int fd = ::memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  const std::size_t wanted = std::min<std::size_t>(sizeof header, num_bytes);
  CHECK_EQUAL(::pwrite(fd, &header, wanted, 0), static_cast<ssize_t>(wanted));
  CHECK_EQUAL(::ftruncate(fd, static_cast<off_t>(num_bytes)), 0);
  CHECK_EQUAL(::fcntl(fd, F_ADD_SEALS, seals), 0);
  char error[256] = {};
  FluxDriver* driver = flux_driver_open(fd, error, sizeof error);
  ::close(fd);
  flux_driver_close(driver);
  CHECK(driver == nullptr);
  return error;
}

void test_another_version_is_refused() {
  const SharedMemoryLink link(small_config());
  MemoryHeader header = header_of(link.fd());
  header.version = 3;
  CHECK_EQUAL(error_of(header, header.total_bytes),
              "driver memory, version: expected 2, got 3. Use the driver of the same flux");
  // Even if all of it is smaller than this version's header.
  CHECK_CONTAINS(error_of(header, 16), "version: expected 2, got 3");
  header.magic += 1;
  CHECK_CONTAINS(error_of(header, header.total_bytes),
                 "magic: expected 5652442d58554c46, got 5652");
  CHECK_CONTAINS(error_of(header, 0), "magic");
}

void test_a_truncated_memory_is_refused() {
  const SharedMemoryLink link(small_config());
  const MemoryHeader header = header_of(link.fd());
  const std::uint64_t total = header.total_bytes;
  CHECK_EQUAL(error_of(header, total - 64), "driver memory, size in bytes: expected " +
                                                std::to_string(total) + ", got " +
                                                std::to_string(total - 64));
  CHECK_CONTAINS(error_of(header, total + 64), "size in bytes: expected");
  CHECK_CONTAINS(error_of(header, sizeof header), "size in bytes: expected");
}

void test_sizes_that_contradict_each_other_are_refused() {
  const SharedMemoryLink link(small_config());
  const MemoryHeader header = header_of(link.fd());
  const auto refuse = [&](auto change, const char* part) {
    MemoryHeader changed = header;
    change(changed);
    CHECK_CONTAINS(error_of(changed, changed.total_bytes), part);
  };
  refuse([](MemoryHeader& h) { h.header_bytes += 8; }, "header_bytes: expected 600, got 608");
  refuse([](MemoryHeader& h) { h.total_bytes += 64; }, "total_bytes: expected");
  refuse([](MemoryHeader& h) { h.shape.action_dim = 0; }, "action_dim: expected 1 to 1024, got 0");
  refuse([](MemoryHeader& h) { h.shape.state_dim = 4000; }, "state_dim: expected 1 to 1024, got");
  refuse([](MemoryHeader& h) { h.shape.state_dim = 4; }, "by differences: expected 3, got 4");
  refuse([](MemoryHeader& h) { h.shape.num_cameras = 33; }, "cameras: expected 0 to 32, got 33");
  refuse([](MemoryHeader& h) { h.shape.commands_are_differences = 2; }, "differences: expected 0");
  refuse([](MemoryHeader& h) { h.shape.period_ns = -1; }, "period_ns: expected 1 to");
  refuse([](MemoryHeader& h) { h.shape.images[1].height = 0; }, "image height: expected 1 to");
  refuse([](MemoryHeader& h) { h.shape.images[0].width = 1 << 20; }, "image width: expected 1 to");
  refuse([](MemoryHeader& h) { h.max_step_offset += 64; }, "max_step_offset: expected");
  refuse([](MemoryHeader& h) { h.policy_offset = 0; }, "policy_offset: expected");
  refuse([](MemoryHeader& h) { h.driver_offset += 8; }, "driver_offset: expected");
  refuse([](MemoryHeader& h) { h.state_offset = ~0ULL; }, "state_offset: expected");
  refuse([](MemoryHeader& h) { h.command_offset = h.state_offset; }, "command_offset: expected");
  refuse([](MemoryHeader& h) { h.frame_offsets[1] += 1 << 20; }, "frame_offsets: expected");
  // A camera more than there is space for.
  refuse(
      [](MemoryHeader& h) {
        h.shape.num_cameras = 3;
        h.shape.images[2] = {9, 9};
      },
      "total_bytes: expected");
  // The header is right, but the step limits behind it are zeros.
  CHECK_CONTAINS(error_of(header, header.total_bytes),
                 "max_step[0]: expected a finite number above 0, got 0");
}

void test_a_memory_that_can_shrink_is_refused() {
  const SharedMemoryLink link(small_config());
  const MemoryHeader header = header_of(link.fd());
  CHECK_CONTAINS(error_of(header, header.total_bytes, 0), "expected a memfd sealed");
  CHECK_CONTAINS(error_of(header, header.total_bytes, F_SEAL_GROW), "expected a memfd sealed");
  char error[256] = {};
  CHECK(flux_driver_open(-1, error, sizeof error) == nullptr);
  CHECK_CONTAINS(error, "descriptor -1: expected a memfd sealed");
  CHECK(::ftruncate(link.fd(), 64) != 0);
  CHECK(::ftruncate(link.fd(), 1 << 24) != 0);
}

void test_a_memory_has_one_driver() {
  const DriverRig rig;
  char error[256] = {};
  CHECK(flux_driver_open(rig.link.fd(), error, sizeof error) == nullptr);
  CHECK_CONTAINS(error, "expected one without a driver");
}

void test_values_that_a_memory_cannot_have_are_refused() {
  const auto refuse = [](auto change, const char* part) {
    SharedMemoryLinkConfig config = small_config();
    change(config);
    const auto make = [&] { const SharedMemoryLink link(config); };
    CHECK_CONTAINS(message_of<std::invalid_argument>(make), part);
  };
  using Config = SharedMemoryLinkConfig;
  refuse([](Config& c) { c.action_dim = 0; }, "action_dim: expected 1 to 1024, got 0");
  refuse([](Config& c) { c.state_dim = std::size_t{1} << 60; }, "state_dim: expected 1 to 1024");
  refuse([](Config& c) { c.control_hz = std::nan(""); }, "control_hz: expected");
  refuse([](Config& c) { c.max_step[1] = kNan; }, "max_step[1]: expected a finite number above 0");
  refuse([](Config& c) { c.max_step.pop_back(); }, "length of max_step: expected 3, got 2");
  refuse([](Config& c) { c.images[0].width = 0; }, "image width: expected 1 to");
  refuse([](Config& c) { c.images.resize(40, {1, 1}); }, "cameras: expected 0 to 32, got 40");
  refuse([](Config& c) { c.state_dim = 4; }, "expected 3, got 4");
}

void test_states_and_frames_arrive_with_their_times() {
  DriverRig rig;
  std::vector<float> state(3, -1.0F);
  CHECK_EQUAL(rig.link.read_state(state).count, 0U);
  CHECK_EQUAL(state[0], 0.0F);
  CHECK(rig.link.observe_frame(0).pixels.empty());
  CHECK_EQUAL(rig.link.frame_captured_ns(0), 0);
  rig.publish_state({1, 2, 3}, 11);
  rig.publish_state({4, 5, 6}, 12);
  const StateSample sample = rig.link.read_state(state);
  CHECK_EQUAL(sample.count, 2U);
  CHECK_EQUAL(sample.captured_ns, 12);
  CHECK(state == (std::vector<float>{4, 5, 6}));
  const std::vector<std::uint8_t> image(4 * 6 * 3, 17);
  CHECK_EQUAL(flux_driver_publish_frame(rig.driver, 0, image.data(), 4, 6, 21), FLUX_DRIVER_OK);
  CHECK_EQUAL(rig.link.frame_captured_ns(0), 21);
  const FrameView frame = rig.link.observe_frame(0);
  CHECK_EQUAL(frame.captured_ns, 21);
  CHECK(std::memcmp(frame.pixels.data(), image.data(), image.size()) == 0);
  // The same frame again, because there is no newer one.
  CHECK_EQUAL(rig.link.observe_frame(0).captured_ns, 21);
  CHECK(rig.link.observe_frame(1).pixels.empty());
}

void test_arrays_of_another_size_are_refused() {
  const DriverRig rig;
  const std::vector<float> state(4);
  const std::vector<std::uint8_t> image(4 * 6 * 3);
  CHECK_EQUAL(flux_driver_publish_state(rig.driver, state.data(), 4, 1), FLUX_DRIVER_WRONG_SIZE);
  CHECK_EQUAL(flux_driver_publish_frame(rig.driver, 0, image.data(), 6, 4, 1),
              FLUX_DRIVER_WRONG_SIZE);
  CHECK_EQUAL(flux_driver_publish_frame(rig.driver, 2, image.data(), 4, 6, 1),
              FLUX_DRIVER_NO_CAMERA);
  CHECK_EQUAL(flux_driver_set_phase(rig.driver, 5), FLUX_DRIVER_UNKNOWN_VALUE);
}

void test_a_command_arrives_with_its_stamps() {
  DriverRig rig;
  rig.publish_state({0, 0, 0});
  rig.begin(1);
  CHECK_EQUAL(rig.take(), FLUX_DRIVER_NOTHING);
  const std::int64_t sent_ns = rig.send({0.1F, 0, 0}, 1, 4);
  CHECK_EQUAL(rig.take(), FLUX_DRIVER_COMMAND);
  CHECK_EQUAL(rig.command.sequence, 4U);
  CHECK_EQUAL(rig.command.session, 1U);
  CHECK_EQUAL(rig.command.tick_ns, 5);
  CHECK_EQUAL(rig.command.observed_ns, 6);
  CHECK_EQUAL(rig.command.sent_ns, sent_ns);
  CHECK_EQUAL(rig.command.flags, 7U);
  CHECK_EQUAL(rig.values[0], 0.1F);
  CHECK_EQUAL(rig.take(), FLUX_DRIVER_NOTHING);
  CHECK_EQUAL(rig.link.status().acknowledged, 0U);
  flux_driver_acknowledge(rig.driver, 1, 4);
  CHECK_EQUAL(rig.link.status().acknowledged, 4U);
}

void test_a_step_of_more_than_three_nominal_ones_is_refused() {
  DriverRig rig;
  rig.begin(1);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 1), FLUX_DRIVER_NO_STATE);
  rig.publish_state({1, 1, 1});
  // The first command of a session is compared with the measured state.
  CHECK_EQUAL(rig.send_and_take({1, 1, 1.61F}, 1), FLUX_DRIVER_STEP);
  CHECK_EQUAL(rig.command.joint, 2);
  CHECK_NEAR(rig.command.step, 0.61, 1e-6);
  CHECK_NEAR(rig.command.max_step, 0.6, 1e-9);
  CHECK_EQUAL(rig.send_and_take({1.3F, 1, 1.6F}, 1), FLUX_DRIVER_COMMAND);
  // The others with the last one that was accepted, wherever the robot is.
  rig.publish_state({5, 5, 5});
  CHECK_EQUAL(rig.send_and_take({5, 5, 5}, 1), FLUX_DRIVER_STEP);
  CHECK_EQUAL(rig.send_and_take({1.6F, 1, 1.6F}, 1), FLUX_DRIVER_COMMAND);
  CHECK_EQUAL(rig.send_and_take({kNan, 1, 1.6F}, 1), FLUX_DRIVER_NOT_FINITE);
  CHECK_EQUAL(rig.send_and_take({1.6F, 1, HUGE_VALF}, 1), FLUX_DRIVER_NOT_FINITE);
  CHECK_EQUAL(rig.command.joint, 2);
  CHECK_EQUAL(rig.link.status().refused_steps, 3U);
  CHECK_EQUAL(rig.link.refused().not_finite, 2U);
  rig.begin(2);
  CHECK_EQUAL(rig.send_and_take({1.6F, 1, 1.6F}, 2), FLUX_DRIVER_STEP);
  // A state that is not a number is near nothing.
  rig.publish_state({kNan, 1, 1.6F});
  CHECK_EQUAL(rig.send_and_take({1.6F, 1, 1.6F}, 2), FLUX_DRIVER_STEP);
}

void test_steps_of_a_robot_of_differences_are_not_checked() {
  SharedMemoryLinkConfig config = small_config();
  config.max_step.clear();
  config.state_dim = 5;
  DriverRig rig(config);
  rig.begin(1);
  CHECK_EQUAL(rig.send_and_take({1e6F, 0, 0}, 1), FLUX_DRIVER_COMMAND);
  CHECK_EQUAL(rig.send_and_take({-1e6F, 0, 0}, 1), FLUX_DRIVER_COMMAND);
  CHECK_EQUAL(rig.send_and_take({kNan, 0, 0}, 1), FLUX_DRIVER_NOT_FINITE);
}

void test_a_command_older_than_three_periods_is_dropped() {
  DriverRig rig(small_config(20.0));
  rig.publish_state({0, 0, 0});
  const std::int64_t sent_ns = rig.send({0, 0, 0}, 1);
  MonotonicClock().sleep_until_ns(sent_ns + 151'000'000);
  // The session begins only now, so that it has not ended because of the policy's silence.
  rig.begin(1);
  CHECK_EQUAL(rig.take(), FLUX_DRIVER_TOO_OLD);
  CHECK_EQUAL(rig.link.status().dropped_old, 1U);
}

void test_a_driver_accepts_commands_of_one_session() {
  DriverRig rig;
  rig.publish_state({0, 0, 0});
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 0), FLUX_DRIVER_OTHER_SESSION);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 1), FLUX_DRIVER_OTHER_SESSION);
  CHECK_EQUAL(flux_driver_begin(rig.driver, 0), FLUX_DRIVER_OLD_SESSION);
  CHECK_EQUAL(flux_driver_begin(rig.driver, kMaxSession), FLUX_DRIVER_OLD_SESSION);
  CHECK_EQUAL(flux_driver_begin(rig.driver, 3), FLUX_DRIVER_OK);
  // Not before the policy runs: nobody would notice its silence.
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 3), FLUX_DRIVER_OTHER_SESSION);
  rig.link.announce(LinkPhase::kRunning, StopCategory::kStopKeepPower, 3);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 3), FLUX_DRIVER_COMMAND);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 2), FLUX_DRIVER_OTHER_SESSION);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 4), FLUX_DRIVER_OTHER_SESSION);
  flux_driver_acknowledge(rig.driver, 3, 1);
  flux_driver_end(rig.driver);
  CHECK_EQUAL(rig.link.status().session, 0U);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 3), FLUX_DRIVER_OTHER_SESSION);
  CHECK_EQUAL(flux_driver_begin(rig.driver, 3), FLUX_DRIVER_OLD_SESSION);
  CHECK_EQUAL(flux_driver_begin(rig.driver, 2), FLUX_DRIVER_OLD_SESSION);
  rig.begin(4);
  CHECK_EQUAL(rig.link.status().acknowledged, 0U);
  flux_driver_acknowledge(rig.driver, 3, 8);  // late, by a thread that was still sending
  CHECK_EQUAL(rig.link.status().acknowledged, 0U);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 4), FLUX_DRIVER_COMMAND);
  CHECK_EQUAL(rig.link.refused().other_session, 6U);
}

void test_only_the_newest_command_is_taken() {
  DriverRig rig;
  rig.publish_state({0, 0, 0});
  rig.begin(1);
  rig.send({0, 0, 0}, 1, 1);
  CHECK_EQUAL(rig.take(), FLUX_DRIVER_COMMAND);
  for (std::uint64_t i = 2; i < 7; ++i) rig.send({0, 0, 0}, 1, i);
  CHECK_EQUAL(rig.take(), FLUX_DRIVER_COMMAND);
  CHECK_EQUAL(rig.command.sequence, 6U);
  CHECK_EQUAL(rig.take(), FLUX_DRIVER_NOTHING);
  CHECK_EQUAL(rig.link.refused().overwritten, 4U);
}

void test_a_silent_policy_is_noticed_once_and_its_session_ends() {
  DriverRig rig(small_config(20.0));
  rig.publish_state({0, 0, 0});
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_FINE);
  rig.begin(1);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_FINE);
  const std::int64_t now_ns = MonotonicClock().now_ns();
  rig.link.beat(now_ns - 160'000'000);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_SILENT);
  rig.link.beat(MonotonicClock().now_ns());
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_FINE);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 1), FLUX_DRIVER_OTHER_SESSION);
  // Also if the thread that waits for commands looks first.
  rig.begin(2);
  rig.link.beat(now_ns - 160'000'000);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 2), FLUX_DRIVER_OTHER_SESSION);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_SILENT);
  // A policy that does not run may be silent.
  CHECK_EQUAL(flux_driver_begin(rig.driver, 3), FLUX_DRIVER_OK);
  rig.link.announce(LinkPhase::kIdle, StopCategory::kStopKeepPower, 3);
  rig.link.beat(now_ns - 160'000'000);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_FINE);
}

void test_a_stop_is_announced_with_its_category() {
  DriverRig rig;
  for (std::uint32_t category = 0; category < 3; ++category) {
    rig.begin(category + 1);
    rig.link.announce(LinkPhase::kStopped, static_cast<StopCategory>(category), category + 1);
    CHECK_EQUAL(rig.watch(), FLUX_DRIVER_STOP);
    CHECK_EQUAL(rig.category, category);
    CHECK_EQUAL(rig.watch(), FLUX_DRIVER_FINE);
    CHECK_EQUAL(rig.link.status().session, 0U);
  }
  // A stop that is followed by a close at once is not lost, and an old stop stops nothing.
  rig.begin(7);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_FINE);
  rig.link.announce(LinkPhase::kStopped, StopCategory::kPowerOff, 7);
  rig.link.announce(LinkPhase::kClosed, StopCategory::kStopKeepPower, 7);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_STOP);
  CHECK_EQUAL(rig.category, 0U);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_CLOSED);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_CLOSED);
}

void test_a_closed_policy_ends_the_session() {
  DriverRig rig;
  rig.begin(1);
  rig.link.announce(LinkPhase::kClosed, StopCategory::kStopThenPowerOff, 1);
  CHECK_EQUAL(rig.send_and_take({0, 0, 0}, 1), FLUX_DRIVER_OTHER_SESSION);
  CHECK_EQUAL(rig.watch(), FLUX_DRIVER_CLOSED);
  CHECK_EQUAL(rig.category, 1U);
}

void test_the_driver_is_seen() {
  DriverRig rig;
  CHECK(rig.link.status().phase == DriverPhase::kConnecting);
  CHECK_EQUAL(rig.link.status().heartbeat_ns, 0);
  flux_driver_beat(rig.driver);
  flux_driver_set_progress(rig.driver, 5);
  CHECK_EQUAL(flux_driver_set_phase(rig.driver, FLUX_DRIVER_READY), FLUX_DRIVER_OK);
  const LinkStatus status = rig.link.status();
  CHECK(status.phase == DriverPhase::kReady && status.is_alive);
  CHECK_EQUAL(status.progress, 5U);
  CHECK(std::abs(status.heartbeat_ns - MonotonicClock().now_ns()) < 5'000'000'000);
  rig.link.set_dead();
  CHECK(!rig.link.status().is_alive);
  FluxDriverLayout layout;
  flux_driver_layout(rig.driver, &layout);
  CHECK_EQUAL(layout.action_dim, 3U);
  CHECK_EQUAL(layout.period_ns, 1'000'000'000);
  std::uint32_t height = 0;
  std::uint32_t width = 0;
  CHECK_EQUAL(flux_driver_camera(rig.driver, 0, &height, &width), FLUX_DRIVER_OK);
  CHECK(height == 4 && width == 6);
  CHECK_EQUAL(flux_driver_camera(rig.driver, 2, &height, &width), FLUX_DRIVER_NO_CAMERA);
}

void test_a_message_that_was_left_half_written_hides_no_other() {
  std::array<std::uint64_t, Mailbox::bytes(2) / 8> memory{};
  Mailbox mailbox(memory.data(), 2);
  std::array<std::uint64_t, 2> message{1, 1};
  for (std::uint64_t i = 1; i < 9; ++i) {
    message = {i, i};
    mailbox.write(message);
    // What a writer that is killed leaves: the next slot's sequence is odd, a word is new.
    std::array<std::uint64_t, Mailbox::bytes(2) / 8> left = memory;
    const std::size_t slot = (i + 1) % Mailbox::kSlots * 8 + 8;
    left[slot] = 2 * (i + 1) - 1;
    left[slot + 1] = i + 1;
    std::array<std::uint64_t, 2> found{};
    CHECK_EQUAL(Mailbox(left.data(), 2).read(found), i);
    CHECK(found == message);
  }
}

void test_the_control_threads_calls_do_not_allocate() {
  DriverRig rig;
  rig.publish_state({0, 0, 0});
  rig.begin(1);
  std::vector<float> state(3);
  const std::vector<float> command(3);
  const std::size_t before = num_allocations();
  for (int i = 0; i < 10; ++i) {
    (void)rig.link.read_state(state);
    (void)rig.link.status();
    (void)rig.link.frame_captured_ns(0);
    (void)rig.link.send(command, {.sequence = 1, .session = 1});
    rig.link.beat(MonotonicClock().now_ns());
    rig.link.announce(LinkPhase::kRunning, StopCategory::kPowerOff, 1);
    (void)rig.take();
  }
  CHECK_EQUAL(num_allocations(), before);
}

}  // namespace

std::vector<Case> driver_memory_cases() {
  return {
      {"another version is refused", test_another_version_is_refused},
      {"a truncated memory is refused", test_a_truncated_memory_is_refused},
      {"sizes that contradict each other are refused",
       test_sizes_that_contradict_each_other_are_refused},
      {"a memory that can shrink is refused", test_a_memory_that_can_shrink_is_refused},
      {"a memory has one driver", test_a_memory_has_one_driver},
      {"values that a memory cannot have are refused",
       test_values_that_a_memory_cannot_have_are_refused},
      {"states and frames arrive with their times", test_states_and_frames_arrive_with_their_times},
      {"arrays of another size are refused", test_arrays_of_another_size_are_refused},
      {"a command arrives with its stamps", test_a_command_arrives_with_its_stamps},
      {"a step of more than three nominal ones is refused",
       test_a_step_of_more_than_three_nominal_ones_is_refused},
      {"steps of a robot of differences are not checked",
       test_steps_of_a_robot_of_differences_are_not_checked},
      {"a command older than three periods is dropped",
       test_a_command_older_than_three_periods_is_dropped},
      {"a driver accepts commands of one session", test_a_driver_accepts_commands_of_one_session},
      {"only the newest command is taken", test_only_the_newest_command_is_taken},
      {"a silent policy is noticed once and its session ends",
       test_a_silent_policy_is_noticed_once_and_its_session_ends},
      {"a stop is announced with its category", test_a_stop_is_announced_with_its_category},
      {"a closed policy ends the session", test_a_closed_policy_ends_the_session},
      {"the driver is seen", test_the_driver_is_seen},
      {"a message that was left half written hides no other",
       test_a_message_that_was_left_half_written_hides_no_other},
      {"the control thread's calls do not allocate",
       test_the_control_threads_calls_do_not_allocate},
  };
}

}  // namespace flux::test
