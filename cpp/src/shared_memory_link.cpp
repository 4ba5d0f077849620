#include "flux/shared_memory_link.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include <system_error>

#include "flux/clock.hpp"
#include "flux/tensor.hpp"

namespace flux {
namespace {

constexpr double kMaxControlHz = 1e6;

[[noreturn]] void throw_system_error(const char* action) {
  throw std::system_error(errno, std::generic_category(), std::string("driver memory: ") + action);
}

// A number that is none stands for a robot that stands still.
double scaling_of(std::uint64_t word) noexcept {
  const auto scaling = std::bit_cast<double>(word);
  return scaling > 0.0 ? std::min(scaling, 1.0) : 0.0;
}

MemoryHeader make_header(const SharedMemoryLinkConfig& config) {
  // Written so that a NaN fails.
  if (!(config.control_hz >= 0.001 && config.control_hz <= kMaxControlHz)) {
    throw std::invalid_argument(
        expected_got("control_hz", "0.001 to 1000000", std::to_string(config.control_hz)));
  }
  MemoryShape shape{
      .action_dim = static_cast<std::uint32_t>(std::min<std::size_t>(config.action_dim, 1U << 20)),
      .state_dim = static_cast<std::uint32_t>(std::min<std::size_t>(config.state_dim, 1U << 20)),
      .num_cameras =
          static_cast<std::uint32_t>(std::min<std::size_t>(config.images.size(), 1U << 20)),
      .commands_are_differences = config.max_step.empty() ? 1U : 0U,
      .period_ns = std::llround(1e9 / config.control_hz)};
  std::copy_n(config.images.begin(), std::min<std::size_t>(config.images.size(), kMaxCameras),
              shape.images);
  MemoryFault fault;
  check_shape(shape, fault);
  check_max_step(config.max_step, fault);
  if (!config.max_step.empty()) {
    fault.expect("length of max_step", config.action_dim, config.max_step.size());
  }
  if (fault.is_fault()) throw std::invalid_argument(fault.text());
  return lay_out(shape);
}

#if defined(__linux__)

// Returns the descriptor of a memory whose size cannot change, so that neither side can make the
// other's accesses fail.
int make_memory(std::uint64_t num_bytes) {
  const int fd = ::memfd_create("flux-driver", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0) throw_system_error("memfd_create");
  if (::ftruncate(fd, static_cast<off_t>(num_bytes)) != 0 ||
      ::fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    const int error = errno;
    ::close(fd);
    errno = error;
    throw_system_error("setting its size");
  }
  return fd;
}

void* map_memory(int fd, std::uint64_t num_bytes) {
  void* memory =
      ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (memory == MAP_FAILED) {
    const int error = errno;
    ::close(fd);
    errno = error;
    throw_system_error("mmap");
  }
  return memory;
}

#else

int make_memory(std::uint64_t) {
  throw std::runtime_error("driver memory: expected Linux. Run real robots from a Linux machine");
}
void* map_memory(int, std::uint64_t) { return nullptr; }

#endif

}  // namespace

SharedMemoryLink::SharedMemoryLink(const SharedMemoryLinkConfig& config)
    : SharedMemoryLink(config, make_header(config)) {}

SharedMemoryLink::SharedMemoryLink(const SharedMemoryLinkConfig& config, const MemoryHeader& header)
    : control_copy_(state_words(config.state_dim)),
      observed_copy_(state_words(config.state_dim)),
      command_words_(command_words(config.action_dim)) {
  frames_.reserve(config.images.size());
  fd_ = make_memory(header.total_bytes);
  memory_ = map_memory(fd_, header.total_bytes);
  std::memcpy(memory_, &header, sizeof header);
  parts_ = MemoryParts(memory_, header);
  std::ranges::copy(config.max_step, parts_.max_step().begin());
  for (std::size_t i = 0; i < config.images.size(); ++i) frames_.emplace_back(parts_.frames(i));
}

SharedMemoryLink::~SharedMemoryLink() {
  ::munmap(memory_, parts_.total_bytes());
  ::close(fd_);
}

StateSample SharedMemoryLink::read_into(StateCopy& copy, std::span<float> state) const noexcept {
  const std::uint64_t count = parts_.states().read(copy.next);
  if (count != 0) {
    copy.words.swap(copy.next);
    copy.count = count;
  }
  std::memcpy(state.data(), copy.words.data() + kStateStampWords, state_dim() * sizeof(float));
  return {.captured_ns = static_cast<std::int64_t>(copy.words[0]),
          .count = copy.count,
          .speed_scaling = scaling_of(copy.words[1])};
}

StateSample SharedMemoryLink::read_state(std::span<float> state) noexcept {
  return read_into(control_copy_, state);
}

StateSample SharedMemoryLink::observe_state(std::span<float> state) noexcept {
  return read_into(observed_copy_, state);
}

FrameView SharedMemoryLink::observe_frame(std::size_t camera) noexcept {
  return frames_[camera].newest();
}

std::int64_t SharedMemoryLink::frame_captured_ns(std::size_t camera) const noexcept {
  return static_cast<std::int64_t>(
      shared_word(parts_.driver().frame_captured_ns[camera]).load(std::memory_order_acquire));
}

LinkStatus SharedMemoryLink::status() const noexcept {
  const auto load = [](std::uint64_t& word) {
    return shared_word(word).load(std::memory_order_acquire);
  };
  DriverBlock& driver = parts_.driver();
  const std::uint64_t session = load(driver.session);
  return {
      .phase = static_cast<DriverPhase>(load(driver.phase)),
      .acknowledged = acknowledged_of(load(driver.acknowledged), session),
      .session = session,
      .heartbeat_ns = static_cast<std::int64_t>(load(driver.heartbeat_ns)),
      .dropped_old = load(driver.dropped_old),
      .refused_steps = load(driver.refused_steps),
      .progress = static_cast<std::uint32_t>(load(driver.progress)),
      .is_alive = is_alive_.load(std::memory_order_acquire),
  };
}

RefusedCommands SharedMemoryLink::refused() const noexcept {
  DriverBlock& driver = parts_.driver();
  return {
      .not_finite = shared_word(driver.refused_values).load(std::memory_order_acquire),
      .other_session = shared_word(driver.refused_sessions).load(std::memory_order_acquire),
      .overwritten = shared_word(driver.overwritten).load(std::memory_order_acquire),
  };
}

std::int64_t SharedMemoryLink::send(std::span<const float> command,
                                    const CommandStamp& stamp) noexcept {
  std::memcpy(command_words_.data() + kStampWords, command.data(), action_dim() * sizeof(float));
  const std::int64_t sent_ns = MonotonicClock().now_ns();
  command_words_[0] = stamp.sequence;
  command_words_[1] = stamp.session;
  command_words_[2] = static_cast<std::uint64_t>(stamp.tick_ns);
  command_words_[3] = static_cast<std::uint64_t>(stamp.observed_ns);
  command_words_[4] = static_cast<std::uint64_t>(sent_ns);
  command_words_[5] = stamp.flags;
  parts_.commands().write(command_words_);
  return sent_ns;
}

void SharedMemoryLink::beat(std::int64_t now_ns) noexcept {
  shared_word(parts_.policy().heartbeat_ns)
      .store(static_cast<std::uint64_t>(now_ns), std::memory_order_release);
}

void SharedMemoryLink::announce(LinkPhase phase, StopCategory category,
                                std::uint64_t session) noexcept {
  beat(MonotonicClock().now_ns());
  const std::uint64_t word = pack_phase(phase, category, session);
  if (phase == LinkPhase::kStopped) {
    shared_word(parts_.policy().last_stop).store(word, std::memory_order_release);
  }
  shared_word(parts_.policy().announced).store(word, std::memory_order_release);
}

}  // namespace flux
