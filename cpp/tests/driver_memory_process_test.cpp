// Both ends in processes of their own: no message is a mixture of two.
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstring>

#include "driver_rig.hpp"

namespace flux::test {
namespace {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr std::int64_t kReads = 200'000;
#else
constexpr std::int64_t kReads = 10'000'000;
#endif
constexpr std::int64_t kFrameReads = kReads / 100;
constexpr std::int64_t kMessages = 500;
constexpr std::size_t kDim = 14;
constexpr std::uint32_t kHeight = 16;
constexpr std::uint32_t kWidth = 24;
constexpr std::int64_t kLargest = 1 << 23;  // every number up to here is a float32

SharedMemoryLinkConfig wide_config() {
  return {.action_dim = kDim,
          .state_dim = kDim,
          .images = {{kHeight, kWidth}},
          .control_hz = 0.01,
          .max_step = std::vector<double>(kDim, 1e9)};
}

// The parts of a memory of wide_config().
MemoryParts parts_of(const DriverRig& rig) {
  MemoryHeader header;
  std::memcpy(&header, rig.link.hot_memory().data(), sizeof header);
  return {rig.link.hot_memory().data(), header};
}

// A process that calls `step(number)` with 1, 2, ... until it is killed.
class Writer {
 public:
  template <typename Step>
  explicit Writer(Step step) {
    pid_ = ::fork();
    if (pid_ < 0) throw Failure("fork failed");
    if (pid_ > 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (std::int64_t number = 1;; number = number % kLargest + 1) step(number);
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
};

struct Tally {
  std::int64_t reads = 0;
  std::int64_t different = 0;  // reads that gave another message than the one before
  std::int64_t torn = 0;
  std::int64_t last = 0;
  std::int64_t unchanged = 0;

  void add(std::int64_t number, bool is_torn) {
    ++reads;
    if (number != last) ++different;
    if (is_torn) ++torn;
    unchanged = number == last ? unchanged + 1 : 0;
    last = number;
    // On a busy machine the writer has to get a turn.
    if (unchanged % 1000 == 999) ::sched_yield();
  }
  // Whether there were enough reads, and the writer ran meanwhile.
  [[nodiscard]] bool is_enough(std::int64_t wanted) const {
    return reads >= wanted && different >= std::min(kMessages, wanted / 100);
  }
  void check(const char* name) const {
    std::printf("      %s: %lld reads of %lld messages, %lld torn\n", name,
                static_cast<long long>(reads), static_cast<long long>(different),
                static_cast<long long>(torn));
    CHECK_EQUAL(torn, 0);
  }
};

bool is_torn(std::span<const float> values, std::int64_t number) {
  for (const float value : values) {
    if (value != static_cast<float>(number)) return true;
  }
  return false;
}

Tally read_states(DriverRig& rig, std::int64_t reads) {
  Tally tally;
  std::vector<float> state(kDim);
  while (rig.link.read_state(state).count == 0) {
  }
  while (!tally.is_enough(reads)) {
    const StateSample sample = rig.link.read_state(state);
    tally.add(sample.captured_ns, is_torn(state, sample.captured_ns));
  }
  return tally;
}

Tally read_frames(DriverRig& rig, std::int64_t reads) {
  Tally tally;
  while (rig.link.observe_frame(0).pixels.empty()) {
  }
  while (!tally.is_enough(reads)) {
    const FrameView frame = rig.link.observe_frame(0);
    const std::byte first = frame.pixels[0];
    const bool is_torn =
        first != static_cast<std::byte>(frame.captured_ns) ||
        std::memcmp(frame.pixels.data(), frame.pixels.data() + 1, frame.pixels.size() - 1) != 0;
    tally.add(frame.captured_ns, is_torn);
  }
  return tally;
}

void publish_number(const DriverRig& rig, std::int64_t number) {
  std::array<float, kDim> state;
  state.fill(static_cast<float>(number));
  flux_driver_publish_state(rig.driver, state.data(), kDim, number);
}

void publish_image(const DriverRig& rig, std::int64_t number) {
  std::array<std::uint8_t, kHeight * kWidth * 3> image;
  image.fill(static_cast<std::uint8_t>(number));
  flux_driver_publish_frame(rig.driver, 0, image.data(), kHeight, kWidth, number);
}

// Reads a mailbox whose messages are `stamp_words`, the first of them the number, and the values.
Tally read_messages(const Mailbox& mailbox, std::size_t stamp_words, std::int64_t reads) {
  Tally tally;
  std::array<std::uint64_t, command_words(kDim)> words{};
  std::array<float, kDim> values{};
  while (!tally.is_enough(reads)) {
    if (mailbox.read(words) == 0) continue;
    std::memcpy(values.data(), words.data() + stamp_words, sizeof values);
    const auto number = static_cast<std::int64_t>(words[0]);
    tally.add(number, is_torn(values, number));
  }
  return tally;
}

void test_no_state_is_torn() {
  DriverRig rig(wide_config());
  const Writer writer([&](std::int64_t number) { publish_number(rig, number); });
  read_messages(parts_of(rig).states(), kStateStampWords, kReads).check("states");
  read_states(rig, kReads / 10).check("states through the link");
}

// Through the driver's own call, which waits for the next command each time.
Tally take_commands(DriverRig& rig, std::int64_t reads) {
  Tally tally;
  while (!tally.is_enough(reads)) {
    const int result =
        flux_driver_wait_command(rig.driver, rig.values.data(), &rig.command, 1'000'000'000);
    if (result == FLUX_DRIVER_NOTHING) continue;
    CHECK_EQUAL(result, FLUX_DRIVER_COMMAND);
    const auto number = static_cast<std::int64_t>(rig.command.sequence);
    tally.add(number, is_torn(rig.values, number) || rig.command.observed_ns != number);
  }
  return tally;
}

void test_no_command_is_torn() {
  DriverRig rig(wide_config());
  rig.publish_state(std::vector<float>(kDim, 0.0F));
  rig.begin(1);
  const Writer writer([&](std::int64_t number) {
    std::array<float, kDim> command;
    command.fill(static_cast<float>(number));
    rig.link.send(
        command,
        {.sequence = static_cast<std::uint64_t>(number), .session = 1, .observed_ns = number});
  });
  read_messages(parts_of(rig).commands(), kStampWords, kReads).check("commands");
  take_commands(rig, kReads / 10'000).check("commands through the driver");
}

void test_no_frame_is_torn() {
  DriverRig rig(wide_config());
  const Writer writer([&](std::int64_t number) { publish_image(rig, number); });
  read_frames(rig, kFrameReads).check("frames");
}

// The counters above can fail: a writer that ignores the rules is caught.
void test_a_torn_state_and_a_torn_frame_are_seen() {
  DriverRig rig(wide_config());
  publish_number(rig, 1);
  publish_image(rig, 1);
  const MemoryParts parts = parts_of(rig);
  const Writer writer([&](std::int64_t number) {
    auto* slots = reinterpret_cast<std::uint64_t*>(&parts.driver()) + sizeof(DriverBlock) / 8 + 8;
    std::array<float, kDim> state;
    state.fill(static_cast<float>(number));
    std::uint64_t* slot = slots + round_to_line(8 * (1 + state_words(kDim))) / 8;  // the second
    shared_word(slot[1]).store(static_cast<std::uint64_t>(number), std::memory_order_relaxed);
    for (std::size_t i = 0; i < kDim / 2; ++i) {
      std::uint64_t word = 0;
      std::memcpy(&word, state.data() + 2 * i, sizeof word);
      shared_word(slot[1 + kStateStampWords + i]).store(word, std::memory_order_relaxed);
    }
    for (std::uint64_t i = 0; i < FrameSlots::kSlots; ++i) {
      parts.frames(0).stamps(i)[0] = static_cast<std::uint64_t>(number);
      std::memset(parts.frames(0).pixels(i), static_cast<int>(number & 0xFF), 3 * kHeight * kWidth);
    }
  });
  std::int64_t torn_states = 0;
  std::int64_t torn_frames = 0;
  while (torn_states == 0 || torn_frames == 0) {
    torn_states += read_states(rig, 1000).torn;
    torn_frames += read_frames(rig, 1000).torn;
  }
  CHECK(torn_states > 0 && torn_frames > 0);
}

void test_a_state_can_be_read_after_its_writer_was_killed() {
  DriverRig rig(wide_config());
  std::vector<float> state(kDim);
  for (int i = 0; i < 5; ++i) {
    {
      const Writer writer([&](std::int64_t number) { publish_number(rig, number); });
      (void)read_states(rig, 1000);
    }
    const StateSample sample = rig.link.read_state(state);
    CHECK(sample.captured_ns > 0 && !is_torn(state, sample.captured_ns));
  }
}

}  // namespace

std::vector<Case> driver_memory_process_cases() {
  return {
      {"no state is torn", test_no_state_is_torn},
      {"no command is torn", test_no_command_is_torn},
      {"no frame is torn", test_no_frame_is_torn},
      {"a torn state and a torn frame are seen", test_a_torn_state_and_a_torn_frame_are_seen},
      {"a state can be read after its writer was killed",
       test_a_state_can_be_read_after_its_writer_was_killed},
  };
}

}  // namespace flux::test
