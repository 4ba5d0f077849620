// The memory that the policy's process and a robot driver's process share: a plain layout with a
// version. The policy's side creates it and passes its descriptor. Needs neither the heap nor the
// C++ library, so that both sides can use it.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>

#include "flux/frame_buffer.hpp"
#include "flux/mailbox.hpp"
#include "flux/robot_link.hpp"

namespace flux {

inline constexpr std::uint64_t kMemoryMagic = 0x5652442d58554c46;  // "FLUX-DRV" in memory
inline constexpr std::uint32_t kMemoryVersion = 2;
inline constexpr std::uint32_t kMaxDim = 1024;
inline constexpr std::uint32_t kMaxCameras = 32;
inline constexpr std::uint32_t kMaxImageSide = 16384;
// A driver drops commands older than this many control periods, refuses a step larger than this
// many nominal ones, and stops the robot when the policy has been silent for longer.
inline constexpr std::int64_t kMaxPeriods = 3;
// An excess of up to this much over the largest step counts as rounding, as in the safety filter.
inline constexpr double kStepTolerance = 1e-6;
// Sessions are smaller than this, so that one word holds a session, a phase and a category.
inline constexpr std::uint64_t kMaxSession = std::uint64_t{1} << 48;

struct ImageSize {
  std::uint32_t height = 0;
  std::uint32_t width = 0;
};

// What the two sides have to agree on.
struct MemoryShape {
  std::uint32_t action_dim = 0;
  std::uint32_t state_dim = 0;
  std::uint32_t num_cameras = 0;
  // 1 for a robot that is commanded by differences: its steps are not checked.
  std::uint32_t commands_are_differences = 0;
  std::int64_t period_ns = 0;
  ImageSize images[kMaxCameras] = {};  // RGB, one byte per channel
};

// The first bytes of the memory: constant once the descriptor has been passed on.
struct MemoryHeader {
  std::uint64_t magic = 0;
  std::uint32_t version = 0;
  std::uint32_t header_bytes = 0;
  std::uint64_t total_bytes = 0;
  MemoryShape shape;
  std::uint64_t max_step_offset = 0;  // (action_dim) double: the largest nominal step per joint
  std::uint64_t policy_offset = 0;    // PolicyBlock
  std::uint64_t driver_offset = 0;    // DriverBlock
  std::uint64_t state_offset = 0;     // Mailbox
  std::uint64_t command_offset = 0;   // Mailbox
  std::uint64_t frame_offsets[kMaxCameras] = {};  // FrameSlots
};

// Written by the policy's side.
struct alignas(kCacheLine) PolicyBlock {
  std::uint64_t heartbeat_ns;
  std::uint64_t announced;  // pack_phase()
  std::uint64_t last_stop;  // the last announcement with the phase kStopped
};

// Written by the driver's side.
struct alignas(kCacheLine) DriverBlock {
  std::uint64_t is_attached;
  std::uint64_t heartbeat_ns;
  std::uint64_t phase;
  std::uint64_t session;       // the session that commands are accepted of; 0 if none
  std::uint64_t acknowledged;  // pack_acknowledged()
  std::uint64_t progress;
  std::uint64_t dropped_old;
  std::uint64_t refused_steps;
  std::uint64_t refused_values;
  std::uint64_t refused_sessions;
  std::uint64_t overwritten;
  // When the newest frame of each camera was captured; 0 if there is none yet.
  alignas(kCacheLine) std::uint64_t frame_captured_ns[kMaxCameras];
};

static_assert(sizeof(MemoryShape) == 24 + 8 * kMaxCameras);
static_assert(sizeof(MemoryHeader) == 88 + 16 * kMaxCameras);
static_assert(offsetof(MemoryHeader, version) == 8 && offsetof(MemoryHeader, shape) == 24);
static_assert(sizeof(PolicyBlock) == kCacheLine && sizeof(DriverBlock) == 6 * kCacheLine);

// A state: when it was captured, the robot's speed scaling as a double, then two values per word.
inline constexpr std::size_t kStateStampWords = 2;
[[nodiscard]] constexpr std::size_t state_words(std::size_t state_dim) noexcept {
  return kStateStampWords + (state_dim + 1) / 2;
}

// A command: sequence, session, tick_ns, observed_ns, sent_ns, flags, then two values per word.
inline constexpr std::size_t kStampWords = 6;
[[nodiscard]] constexpr std::size_t command_words(std::size_t action_dim) noexcept {
  return kStampWords + (action_dim + 1) / 2;
}

[[nodiscard]] constexpr std::uint64_t image_bytes(const ImageSize& image) noexcept {
  return std::uint64_t{3} * image.height * image.width;
}

// One word of phase, stop category and session.
[[nodiscard]] constexpr std::uint64_t pack_phase(LinkPhase phase, StopCategory category,
                                                 std::uint64_t session) noexcept {
  return session << 16 | std::uint64_t{static_cast<std::uint32_t>(category) & 0xFF} << 8 |
         (static_cast<std::uint32_t>(phase) & 0xFF);
}
[[nodiscard]] constexpr LinkPhase phase_of(std::uint64_t word) noexcept {
  return static_cast<LinkPhase>(word & 0xFF);
}
[[nodiscard]] constexpr StopCategory category_of(std::uint64_t word) noexcept {
  const std::uint64_t category = word >> 8 & 0xFF;
  // Anything else is a memory that was overwritten: power is kept, because arms without brakes
  // fall.
  return category < 2 ? static_cast<StopCategory>(category) : StopCategory::kStopKeepPower;
}
[[nodiscard]] constexpr std::uint64_t session_of(std::uint64_t word) noexcept { return word >> 16; }

// One word of the acknowledged sequence and the end of its session's number, so that a late
// acknowledgement cannot count for the next session.
inline constexpr int kSequenceBits = 40;
[[nodiscard]] constexpr std::uint64_t pack_acknowledged(std::uint64_t session,
                                                        std::uint64_t sequence) noexcept {
  const std::uint64_t mask = (std::uint64_t{1} << kSequenceBits) - 1;
  return session << kSequenceBits | (sequence & mask);
}
// Returns 0 if the word belongs to another session.
[[nodiscard]] constexpr std::uint64_t acknowledged_of(std::uint64_t word,
                                                      std::uint64_t session) noexcept {
  const std::uint64_t sequence = word & ((std::uint64_t{1} << kSequenceBits) - 1);
  return pack_acknowledged(session, sequence) == word ? sequence : 0;
}

// Returns the header of a memory of this shape. What the control thread uses comes first.
[[nodiscard]] constexpr MemoryHeader lay_out(const MemoryShape& shape) noexcept {
  MemoryHeader header;
  header.magic = kMemoryMagic;
  header.version = kMemoryVersion;
  header.header_bytes = sizeof(MemoryHeader);
  header.shape = shape;
  std::uint64_t end = round_to_line(sizeof(MemoryHeader));
  const auto place = [&end](std::uint64_t bytes) {
    const std::uint64_t offset = end;
    end += round_to_line(bytes);
    return offset;
  };
  header.max_step_offset = place(shape.action_dim * sizeof(double));
  header.policy_offset = place(sizeof(PolicyBlock));
  header.driver_offset = place(sizeof(DriverBlock));
  header.state_offset = place(Mailbox::bytes(state_words(shape.state_dim)));
  header.command_offset = place(Mailbox::bytes(command_words(shape.action_dim)));
  for (std::uint32_t i = 0; i < shape.num_cameras && i < kMaxCameras; ++i) {
    header.frame_offsets[i] = place(FrameSlots::bytes(image_bytes(shape.images[i])));
  }
  header.total_bytes = end;
  return header;
}

// One line of text, without the heap.
class MemoryFault {
 public:
  [[nodiscard]] const char* text() const noexcept { return text_; }
  [[nodiscard]] bool is_fault() const noexcept { return text_[0] != '\0'; }
  // Sets the text if there is none yet: `name: expected ..., got ...`.
  template <typename... Values>
  void set(const char* format, Values... values) noexcept {
    if (!is_fault()) std::snprintf(text_, sizeof text_, format, values...);
  }
  void expect(const char* name, std::uint64_t expected, std::uint64_t got) noexcept {
    if (expected != got) {
      set("driver memory, %s: expected %llu, got %llu", name,
          static_cast<unsigned long long>(expected), static_cast<unsigned long long>(got));
    }
  }
  void expect_range(const char* name, std::uint64_t low, std::uint64_t high,
                    std::uint64_t got) noexcept {
    if (got < low || got > high) {
      set("driver memory, %s: expected %llu to %llu, got %llu", name,
          static_cast<unsigned long long>(low), static_cast<unsigned long long>(high),
          static_cast<unsigned long long>(got));
    }
  }

 private:
  char text_[200] = {};
};

inline void check_shape(const MemoryShape& shape, MemoryFault& fault) noexcept {
  fault.expect_range("action_dim", 1, kMaxDim, shape.action_dim);
  fault.expect_range("state_dim", 1, kMaxDim, shape.state_dim);
  fault.expect_range("cameras", 0, kMaxCameras, shape.num_cameras);
  fault.expect_range("commands_are_differences", 0, 1, shape.commands_are_differences);
  fault.expect_range("period_ns", 1, 3'600'000'000'000,
                     static_cast<std::uint64_t>(shape.period_ns));
  for (std::uint32_t i = 0; i < shape.num_cameras && i < kMaxCameras; ++i) {
    fault.expect_range("image height", 1, kMaxImageSide, shape.images[i].height);
    fault.expect_range("image width", 1, kMaxImageSide, shape.images[i].width);
  }
  // The first command is compared with the state, so both have to mean the same.
  if (shape.commands_are_differences == 0) {
    fault.expect("state_dim of a robot that is not commanded by differences", shape.action_dim,
                 shape.state_dim);
  }
}

// Checks everything that a reader relies on, in a memory of `file_bytes` whose first bytes are
// `header`. Bytes of `header` behind the end of a shorter memory have to be zeros.
inline void check_header(const MemoryHeader& header, std::uint64_t file_bytes,
                         MemoryFault& fault) noexcept {
  if (header.magic != kMemoryMagic) {
    fault.set("driver memory, magic: expected %016llx, got %016llx. Is this the right descriptor?",
              static_cast<unsigned long long>(kMemoryMagic),
              static_cast<unsigned long long>(header.magic));
  }
  if (header.version != kMemoryVersion) {
    fault.set("driver memory, version: expected %u, got %u. Use the driver of the same flux",
              kMemoryVersion, header.version);
  }
  fault.expect("header_bytes", sizeof(MemoryHeader), header.header_bytes);
  fault.expect("size in bytes", header.total_bytes, file_bytes);
  check_shape(header.shape, fault);
  if (fault.is_fault()) return;
  const MemoryHeader expected = lay_out(header.shape);
  fault.expect("total_bytes", expected.total_bytes, header.total_bytes);
  fault.expect("max_step_offset", expected.max_step_offset, header.max_step_offset);
  fault.expect("policy_offset", expected.policy_offset, header.policy_offset);
  fault.expect("driver_offset", expected.driver_offset, header.driver_offset);
  fault.expect("state_offset", expected.state_offset, header.state_offset);
  fault.expect("command_offset", expected.command_offset, header.command_offset);
  for (std::uint32_t i = 0; i < kMaxCameras; ++i) {
    fault.expect("frame_offsets", expected.frame_offsets[i], header.frame_offsets[i]);
  }
}

// Every limit of a step has to be a number above 0; not read if commands are differences.
inline void check_max_step(std::span<const double> max_step, MemoryFault& fault) noexcept {
  for (std::size_t i = 0; i < max_step.size(); ++i) {
    if (!std::isfinite(max_step[i]) || !(max_step[i] > 0.0)) {
      fault.set("driver memory, max_step[%zu]: expected a finite number above 0, got %g", i,
                max_step[i]);
    }
  }
}

// The parts of a mapped memory whose header has been checked. `header` is a private copy, so that
// the other side cannot move an offset afterwards.
class MemoryParts {
 public:
  MemoryParts() = default;
  MemoryParts(void* memory, const MemoryHeader& header) noexcept
      : memory_(static_cast<std::byte*>(memory)), header_(header) {}

  [[nodiscard]] const MemoryShape& shape() const noexcept { return header_.shape; }
  [[nodiscard]] std::uint64_t total_bytes() const noexcept { return header_.total_bytes; }
  // What the control thread uses: everything before the frames.
  [[nodiscard]] std::uint64_t hot_bytes() const noexcept {
    return header_.command_offset + Mailbox::bytes(command_words(header_.shape.action_dim));
  }
  [[nodiscard]] std::span<double> max_step() const noexcept {
    return {at<double>(header_.max_step_offset), header_.shape.action_dim};
  }
  [[nodiscard]] PolicyBlock& policy() const noexcept {
    return *at<PolicyBlock>(header_.policy_offset);
  }
  [[nodiscard]] DriverBlock& driver() const noexcept {
    return *at<DriverBlock>(header_.driver_offset);
  }
  [[nodiscard]] Mailbox states() const noexcept {
    return {memory_ + header_.state_offset, state_words(header_.shape.state_dim)};
  }
  [[nodiscard]] Mailbox commands() const noexcept {
    return {memory_ + header_.command_offset, command_words(header_.shape.action_dim)};
  }
  [[nodiscard]] FrameSlots frames(std::size_t camera) const noexcept {
    return {memory_ + header_.frame_offsets[camera], image_bytes(header_.shape.images[camera])};
  }

 private:
  template <typename Part>
  [[nodiscard]] Part* at(std::uint64_t offset) const noexcept {
    return reinterpret_cast<Part*>(memory_ + offset);
  }

  std::byte* memory_ = nullptr;
  MemoryHeader header_;
};

}  // namespace flux
