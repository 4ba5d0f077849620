// A robot whose driver runs in another process: the policy's end of the memory they share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "flux/driver_memory.hpp"
#include "flux/robot_link.hpp"

namespace flux {

struct SharedMemoryLinkConfig {
  std::size_t action_dim = 0;
  std::size_t state_dim = 0;
  std::vector<ImageSize> images;  // one per camera
  double control_hz = 0.0;        // commands per second
  // (action_dim): the largest nominal step per joint, max_velocity / control_hz. Empty for a robot
  // that is commanded by differences, whose steps are not checked.
  std::vector<double> max_step;
};

// Commands which the driver did not execute, beyond those in LinkStatus; all since it started.
struct RefusedCommands {
  std::uint64_t not_finite = 0;
  std::uint64_t other_session = 0;  // what was still on its way when a session ended
  std::uint64_t overwritten = 0;    // replaced by a newer command before the driver took them
};

// Creates the memory, sealed against a change of its size. The driver opens it by descriptor.
// `announce(kRunning)` comes before the first command of a session: the driver accepts commands
// only while it would notice this side's silence.
class SharedMemoryLink final : public RobotLink {
 public:
  // Throws std::invalid_argument for values that a memory cannot have, std::system_error if the
  // system refuses the memory.
  explicit SharedMemoryLink(const SharedMemoryLinkConfig& config);
  ~SharedMemoryLink() override;

  // The memory's descriptor, closed by the destructor. It is not inherited by new programs.
  [[nodiscard]] int fd() const noexcept { return fd_; }
  // The part that the control thread touches, so that it can be locked in memory.
  [[nodiscard]] std::span<std::byte> hot_memory() const noexcept {
    return {static_cast<std::byte*>(memory_), parts_.hot_bytes()};
  }
  [[nodiscard]] ImageSize image_size(std::size_t camera) const noexcept {
    return parts_.shape().images[camera];
  }

  [[nodiscard]] std::size_t action_dim() const noexcept override {
    return parts_.shape().action_dim;
  }
  [[nodiscard]] std::size_t state_dim() const noexcept override { return parts_.shape().state_dim; }
  [[nodiscard]] std::size_t num_cameras() const noexcept override {
    return parts_.shape().num_cameras;
  }
  StateSample read_state(std::span<float> state) noexcept override;
  [[nodiscard]] std::int64_t frame_captured_ns(std::size_t camera) const noexcept override;
  [[nodiscard]] LinkStatus status() const noexcept override;
  std::int64_t send(std::span<const float> command, const CommandStamp& stamp) noexcept override;
  void beat(std::int64_t now_ns) noexcept override;
  // Also a sign of life.
  void announce(LinkPhase phase, StopCategory category, std::uint64_t session) noexcept override;

  // Called by any thread.
  [[nodiscard]] RefusedCommands refused() const noexcept;
  // Makes `is_alive` false for good: the driver's process has ended.
  void set_dead() noexcept { is_alive_.store(false, std::memory_order_release); }

  // Called by one thread at a time, which need not be the control thread.
  StateSample observe_state(std::span<float> state) noexcept;
  // The frame stays as it is until the camera's next call.
  [[nodiscard]] FrameView observe_frame(std::size_t camera) noexcept;

 private:
  SharedMemoryLink(const SharedMemoryLinkConfig& config, const MemoryHeader& header);

  // The newest state that one thread has read, and space for the next one.
  struct StateCopy {
    explicit StateCopy(std::size_t num_words) : words(num_words), next(num_words) {}
    std::vector<std::uint64_t> words;
    std::vector<std::uint64_t> next;
    std::uint64_t count = 0;
  };
  StateSample read_into(StateCopy& copy, std::span<float> state) const noexcept;

  int fd_ = -1;
  void* memory_ = nullptr;
  MemoryParts parts_;
  std::atomic<bool> is_alive_{true};
  StateCopy control_copy_;
  StateCopy observed_copy_;
  std::vector<std::uint64_t> command_words_;
  std::vector<FrameReader> frames_;
};

}  // namespace flux
