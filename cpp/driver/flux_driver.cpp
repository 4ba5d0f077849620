#include "flux_driver.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>

#include "flux/driver_memory.hpp"

// Everything of one open memory. The command thread's fields are touched by no other thread.
struct FluxDriver {
  flux::MemoryParts parts;
  void* memory = nullptr;
  flux::FrameWriter frames[flux::kMaxCameras];
  std::atomic<std::uint64_t> newest_session{0};
  // What watch will report: the session, the result and the category.
  std::atomic<std::uint64_t> event{0};
  std::atomic<double> speed_scaling{1.0};
  std::uint64_t taken_commands = 0;
  std::uint64_t last_session = 0;  // of `last_command`
  double max_step[flux::kMaxDim] = {};
  float last_command[flux::kMaxDim] = {};
};

namespace {

using flux::shared_word;

constexpr std::int64_t kPollNs = 200'000;
constexpr auto kRelaxed = std::memory_order_relaxed;
constexpr auto kAcquire = std::memory_order_acquire;
constexpr auto kRelease = std::memory_order_release;

void sleep_ns(std::int64_t duration_ns) noexcept {
  const timespec duration{.tv_sec = static_cast<time_t>(duration_ns / 1'000'000'000),
                          .tv_nsec = static_cast<long>(duration_ns % 1'000'000'000)};
  ::clock_nanosleep(CLOCK_MONOTONIC, 0, &duration, nullptr);
}

void add(std::uint64_t& counter, std::uint64_t count) noexcept {
  shared_word(counter).fetch_add(count, kRelaxed);
}

// Returns the size of a memory that cannot be resized any more; 0 after a fault.
std::uint64_t sealed_size(int fd, flux::MemoryFault& fault) noexcept {
  const int seals = ::fcntl(fd, F_GET_SEALS);
  const int wanted = F_SEAL_SHRINK | F_SEAL_GROW;
  if (seals < 0 || (seals & wanted) != wanted) {
    fault.set("driver memory, descriptor %d: expected a memfd sealed against resizing, got %s", fd,
              seals < 0 ? std::strerror(errno) : "one that can change its size");
    return 0;
  }
  // Not fstat, which needs a newer libc than the systems that drivers run on.
  const off_t size = ::lseek(fd, 0, SEEK_END);
  return size < 0 ? 0 : static_cast<std::uint64_t>(size);
}

// Reads as much of the header as there is, so that another version's shorter one is named.
flux::MemoryHeader read_header(int fd, std::uint64_t num_bytes, flux::MemoryFault& fault) noexcept {
  flux::MemoryHeader header;
  const std::size_t wanted = std::min<std::size_t>(sizeof header, num_bytes);
  if (::pread(fd, &header, wanted, 0) != static_cast<ssize_t>(wanted)) {
    fault.set("driver memory: cannot read its header: %s", std::strerror(errno));
  }
  flux::check_header(header, num_bytes, fault);
  return header;
}

void attach(FluxDriver& driver, const flux::MemoryHeader& header,
            flux::MemoryFault& fault) noexcept {
  driver.parts = flux::MemoryParts(driver.memory, header);
  const flux::MemoryShape& shape = header.shape;
  for (std::uint32_t i = 0; i < shape.num_cameras; ++i) {
    driver.frames[i] = flux::FrameWriter(driver.parts.frames(i));
  }
  if (shape.commands_are_differences == 0) {
    const std::span<const double> max_step = driver.parts.max_step();
    std::copy(max_step.begin(), max_step.end(), driver.max_step);
    flux::check_max_step({driver.max_step, shape.action_dim}, fault);
  }
  if (fault.is_fault()) return;
  if (shared_word(driver.parts.driver().is_attached).exchange(1, std::memory_order_acq_rel) != 0) {
    fault.set("driver memory: expected one without a driver, got one that %s. Make a new memory",
              "a driver has already opened");
  }
}

// The event comes first, so that whoever sees the session closed finds it. Only the first of a
// session counts.
void end_session(FluxDriver& driver, std::uint64_t session, int event,
                 flux::StopCategory category) noexcept {
  const std::uint64_t found =
      session << 16 | static_cast<std::uint64_t>(event) << 8 | static_cast<std::uint64_t>(category);
  std::uint64_t last = driver.event.load(kRelaxed);
  while (last >> 16 < session && !driver.event.compare_exchange_weak(last, found)) {
  }
  std::uint64_t expected = session;
  shared_word(driver.parts.driver().session)
      .compare_exchange_strong(expected, 0, std::memory_order_acq_rel);
}

// Ends the session if the policy has stopped, gone or been silent. Called by the watching thread
// and by the one that waits for commands, so that neither depends on the other being in time.
void judge_policy(FluxDriver& driver, std::int64_t now_ns) noexcept {
  const std::uint64_t session = shared_word(driver.parts.driver().session).load(kAcquire);
  if (session == 0) return;
  flux::PolicyBlock& policy = driver.parts.policy();
  const std::uint64_t announced = shared_word(policy.announced).load(kAcquire);
  const std::uint64_t last_stop = shared_word(policy.last_stop).load(kAcquire);
  const auto heartbeat_ns =
      static_cast<std::int64_t>(shared_word(policy.heartbeat_ns).load(kAcquire));
  const bool is_running = flux::phase_of(announced) == flux::LinkPhase::kRunning &&
                          flux::session_of(announced) == session;
  const std::int64_t allowed_ns = flux::kMaxPeriods * driver.parts.shape().period_ns;
  if (flux::session_of(last_stop) == session) {
    end_session(driver, session, FLUX_DRIVER_STOP, flux::category_of(last_stop));
  } else if (flux::phase_of(announced) == flux::LinkPhase::kClosed) {
    end_session(driver, session, FLUX_DRIVER_CLOSED, flux::category_of(announced));
  } else if (is_running && now_ns - heartbeat_ns > allowed_ns) {
    end_session(driver, session, FLUX_DRIVER_SILENT, flux::StopCategory::kStopKeepPower);
  }
}

// Whether commands of this session are to be executed. They are only while judge_policy would
// notice that the policy is silent.
bool accepts(const FluxDriver& driver, std::uint64_t session) noexcept {
  const std::uint64_t announced = shared_word(driver.parts.policy().announced).load(kAcquire);
  return session != 0 && shared_word(driver.parts.driver().session).load(kAcquire) == session &&
         flux::phase_of(announced) == flux::LinkPhase::kRunning &&
         flux::session_of(announced) == session;
}

// Copies what the first command of a session is compared with. Returns false if there is none.
bool take_measured_state(FluxDriver& driver) noexcept {
  std::uint64_t words[flux::state_words(flux::kMaxDim)];
  if (driver.parts.states().read({words, std::size(words)}) == 0) return false;
  std::memcpy(driver.last_command, words + flux::kStateStampWords,
              driver.parts.shape().state_dim * sizeof(float));
  return true;
}

// Finds the first joint that would move too far, or by NaN.
int check_step(const FluxDriver& driver, const float* values, FluxDriverCommand& command) noexcept {
  for (std::uint32_t i = 0; i < driver.parts.shape().action_dim; ++i) {
    const double step = std::abs(static_cast<double>(values[i]) - driver.last_command[i]);
    const double allowed = static_cast<double>(flux::kMaxPeriods) * driver.max_step[i];
    const double rounding =
        flux::kStepTolerance + std::abs(static_cast<double>(values[i])) * 0x1p-22;
    // Written so that a NaN, from a state, fails.
    if (!(step <= allowed + rounding)) {
      command.joint = static_cast<std::int32_t>(i);
      command.step = step;
      command.max_step = allowed;
      return FLUX_DRIVER_STEP;
    }
  }
  return FLUX_DRIVER_COMMAND;
}

int check_values(FluxDriver& driver, const float* values, FluxDriverCommand& command) noexcept {
  const flux::MemoryShape& shape = driver.parts.shape();
  for (std::uint32_t i = 0; i < shape.action_dim; ++i) {
    if (!std::isfinite(values[i])) {
      command.joint = static_cast<std::int32_t>(i);
      return FLUX_DRIVER_NOT_FINITE;
    }
  }
  if (shape.commands_are_differences != 0) return FLUX_DRIVER_COMMAND;
  if (driver.last_session != command.session && !take_measured_state(driver)) {
    return FLUX_DRIVER_NO_STATE;
  }
  return check_step(driver, values, command);
}

int judge_command(FluxDriver& driver, const float* values, FluxDriverCommand& command) noexcept {
  flux::DriverBlock& counters = driver.parts.driver();
  if (!accepts(driver, command.session)) {
    add(counters.refused_sessions, 1);
    return FLUX_DRIVER_OTHER_SESSION;
  }
  // A time in the future is no better than one long past.
  const std::int64_t age_ns = flux_driver_now_ns() - command.sent_ns;
  if (std::abs(age_ns) > flux::kMaxPeriods * driver.parts.shape().period_ns) {
    add(counters.dropped_old, 1);
    return FLUX_DRIVER_TOO_OLD;
  }
  const int result = check_values(driver, values, command);
  if (result == FLUX_DRIVER_COMMAND) {
    driver.last_session = command.session;
    std::memcpy(driver.last_command, values, driver.parts.shape().action_dim * sizeof(float));
  } else {
    add(result == FLUX_DRIVER_NOT_FINITE ? counters.refused_values : counters.refused_steps, 1);
  }
  return result;
}

// Takes the newest command. Returns FLUX_DRIVER_NOTHING if there is no new one.
int take_command(FluxDriver& driver, float* values, FluxDriverCommand& command) noexcept {
  const flux::Mailbox mailbox = driver.parts.commands();
  if (mailbox.count() == driver.taken_commands) return FLUX_DRIVER_NOTHING;
  std::uint64_t words[flux::command_words(flux::kMaxDim)];
  const std::uint64_t count = mailbox.read({words, std::size(words)});
  if (count == 0 || count == driver.taken_commands) return FLUX_DRIVER_NOTHING;
  if (driver.taken_commands != 0) {
    add(driver.parts.driver().overwritten, count - driver.taken_commands - 1);
  }
  driver.taken_commands = count;
  command = {.sequence = words[0],
             .session = words[1],
             .tick_ns = static_cast<std::int64_t>(words[2]),
             .observed_ns = static_cast<std::int64_t>(words[3]),
             .sent_ns = static_cast<std::int64_t>(words[4]),
             .flags = static_cast<std::uint32_t>(words[5]),
             .joint = -1,
             .step = 0.0,
             .max_step = 0.0};
  std::memcpy(values, words + flux::kStampWords, driver.parts.shape().action_dim * sizeof(float));
  return judge_command(driver, values, command);
}

}  // namespace

std::uint32_t flux_driver_abi() { return FLUX_DRIVER_ABI; }

std::int64_t flux_driver_now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

FluxDriver* flux_driver_open(int fd, char* error, std::size_t error_bytes) {
  flux::MemoryFault fault;
  const std::uint64_t num_bytes = sealed_size(fd, fault);
  flux::MemoryHeader header;
  if (!fault.is_fault()) header = read_header(fd, num_bytes, fault);
  void* space = fault.is_fault() ? nullptr : std::malloc(sizeof(FluxDriver));
  auto* driver = space == nullptr ? nullptr : new (space) FluxDriver;
  if (driver != nullptr) {
    driver->memory =
        ::mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (driver->memory == MAP_FAILED) {
      driver->memory = nullptr;
      fault.set("driver memory: cannot map it: %s", std::strerror(errno));
    } else {
      attach(*driver, header, fault);
    }
  } else {
    fault.set("driver memory: %s", "no memory for the driver's end");
  }
  if (!fault.is_fault()) return driver;
  if (error != nullptr && error_bytes > 0) std::snprintf(error, error_bytes, "%s", fault.text());
  flux_driver_close(driver);
  return nullptr;
}

void flux_driver_close(FluxDriver* driver) {
  if (driver == nullptr) return;
  if (driver->memory != nullptr) ::munmap(driver->memory, driver->parts.total_bytes());
  driver->~FluxDriver();
  std::free(driver);
}

void flux_driver_layout(const FluxDriver* driver, FluxDriverLayout* layout) {
  const flux::MemoryShape& shape = driver->parts.shape();
  *layout = {.action_dim = shape.action_dim,
             .state_dim = shape.state_dim,
             .num_cameras = shape.num_cameras,
             .commands_are_differences = shape.commands_are_differences,
             .period_ns = shape.period_ns};
}

int flux_driver_camera(const FluxDriver* driver, std::uint32_t camera, std::uint32_t* height,
                       std::uint32_t* width) {
  const flux::MemoryShape& shape = driver->parts.shape();
  if (camera >= shape.num_cameras) return FLUX_DRIVER_NO_CAMERA;
  *height = shape.images[camera].height;
  *width = shape.images[camera].width;
  return FLUX_DRIVER_OK;
}

int flux_driver_publish_state(FluxDriver* driver, const float* values, std::uint32_t count,
                              std::int64_t captured_ns) {
  if (count != driver->parts.shape().state_dim) return FLUX_DRIVER_WRONG_SIZE;
  std::uint64_t words[flux::state_words(flux::kMaxDim)];
  words[flux::state_words(count) - 1] = 0;  // of which an odd count fills one half
  const double scaling = driver->speed_scaling.load(kRelaxed);
  words[0] = static_cast<std::uint64_t>(captured_ns);
  std::memcpy(words + 1, &scaling, sizeof scaling);
  std::memcpy(words + flux::kStateStampWords, values, count * sizeof(float));
  driver->parts.states().write({words, flux::state_words(count)});
  return FLUX_DRIVER_OK;
}

int flux_driver_set_speed_scaling(FluxDriver* driver, double share) {
  // Written so that a NaN fails.
  if (!(share >= 0.0 && share <= 1.0)) return FLUX_DRIVER_UNKNOWN_VALUE;
  driver->speed_scaling.store(share, kRelaxed);
  return FLUX_DRIVER_OK;
}

int flux_driver_publish_frame(FluxDriver* driver, std::uint32_t camera, const std::uint8_t* pixels,
                              std::uint32_t height, std::uint32_t width, std::int64_t captured_ns) {
  const flux::MemoryShape& shape = driver->parts.shape();
  if (camera >= shape.num_cameras) return FLUX_DRIVER_NO_CAMERA;
  if (height != shape.images[camera].height || width != shape.images[camera].width) {
    return FLUX_DRIVER_WRONG_SIZE;
  }
  driver->frames[camera].write(pixels, captured_ns);
  shared_word(driver->parts.driver().frame_captured_ns[camera])
      .store(static_cast<std::uint64_t>(captured_ns), kRelease);
  return FLUX_DRIVER_OK;
}

int flux_driver_begin(FluxDriver* driver, std::uint64_t session) {
  std::uint64_t newest = driver->newest_session.load(kAcquire);
  if (session <= newest || session >= flux::kMaxSession ||
      !driver->newest_session.compare_exchange_strong(newest, session)) {
    return FLUX_DRIVER_OLD_SESSION;
  }
  flux::DriverBlock& block = driver->parts.driver();
  driver->event.store(0, kRelease);
  shared_word(block.acknowledged).store(flux::pack_acknowledged(session, 0), kRelease);
  shared_word(block.session).store(session, kRelease);
  return FLUX_DRIVER_OK;
}

void flux_driver_end(FluxDriver* driver) {
  shared_word(driver->parts.driver().session).store(0, kRelease);
}

int flux_driver_wait_command(FluxDriver* driver, float* values, FluxDriverCommand* command,
                             std::int64_t timeout_ns) {
  std::int64_t now_ns = flux_driver_now_ns();
  const std::int64_t deadline_ns = now_ns + timeout_ns;
  for (;;) {
    judge_policy(*driver, now_ns);
    const int result = take_command(*driver, values, *command);
    if (result != FLUX_DRIVER_NOTHING || now_ns >= deadline_ns) return result;
    sleep_ns(std::min(kPollNs, deadline_ns - now_ns));
    now_ns = flux_driver_now_ns();
  }
}

void flux_driver_acknowledge(FluxDriver* driver, std::uint64_t session, std::uint64_t sequence) {
  shared_word(driver->parts.driver().acknowledged)
      .store(flux::pack_acknowledged(session, sequence), kRelease);
}

void flux_driver_beat(FluxDriver* driver) {
  shared_word(driver->parts.driver().heartbeat_ns)
      .store(static_cast<std::uint64_t>(flux_driver_now_ns()), kRelease);
}

int flux_driver_watch(FluxDriver* driver, std::uint32_t* category) {
  // Before the judgement, which thus sees every stop that was announced before the end.
  const std::uint64_t announced = shared_word(driver->parts.policy().announced).load(kAcquire);
  const bool is_closed = flux::phase_of(announced) == flux::LinkPhase::kClosed;
  judge_policy(*driver, flux_driver_now_ns());
  const std::uint64_t event = driver->event.exchange(0, std::memory_order_acq_rel);
  const bool is_new = event != 0 && event >> 16 == driver->newest_session.load(kAcquire);
  *category = is_new ? event & 0xFF : 2;
  if (is_new) return static_cast<int>(event >> 8 & 0xFF);
  return is_closed ? FLUX_DRIVER_CLOSED : FLUX_DRIVER_FINE;
}

int flux_driver_set_phase(FluxDriver* driver, std::uint32_t phase) {
  if (phase > FLUX_DRIVER_CLOSING) return FLUX_DRIVER_UNKNOWN_VALUE;
  shared_word(driver->parts.driver().phase).store(phase, kRelease);
  return FLUX_DRIVER_OK;
}

void flux_driver_set_progress(FluxDriver* driver, std::uint32_t bits) {
  shared_word(driver->parts.driver().progress).store(bits, kRelease);
}

void flux_driver_counters(const FluxDriver* driver, FluxDriverCounters* counters) {
  flux::DriverBlock& block = driver->parts.driver();
  *counters = {.dropped_old = shared_word(block.dropped_old).load(kRelaxed),
               .refused_steps = shared_word(block.refused_steps).load(kRelaxed),
               .refused_not_finite = shared_word(block.refused_values).load(kRelaxed),
               .refused_sessions = shared_word(block.refused_sessions).load(kRelaxed),
               .overwritten = shared_word(block.overwritten).load(kRelaxed)};
}
