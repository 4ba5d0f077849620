// A triple buffer in shared memory for the frames of one camera: the writer never waits for the
// reader, and the reader keeps a whole frame for as long as it wants.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "flux/mailbox.hpp"

namespace flux {

struct FrameView {
  std::span<const std::byte> pixels;  // empty if there is no frame yet
  std::int64_t captured_ns = 0;       // on the monotonic clock; 0 if there is none yet
  std::uint64_t count = 0;            // frames published until this one
};

// Where the parts lie. One line with the middle's word, then three slots: a line of stamps and the
// pixels.
class FrameSlots {
 public:
  static constexpr std::uint32_t kSlots = 3;
  static constexpr std::uint64_t kFresh = 4;  // the middle slot holds a frame that was not read yet

  [[nodiscard]] static constexpr std::uint64_t bytes(std::uint64_t frame_bytes) noexcept {
    return kCacheLine + kSlots * (kCacheLine + round_to_line(frame_bytes));
  }

  FrameSlots() = default;
  FrameSlots(void* memory, std::size_t frame_bytes) noexcept
      : memory_(static_cast<std::byte*>(memory)), frame_bytes_(frame_bytes) {}

  // The middle slot's index and whether its frame is fresh. Zero, the initial value, is slot 0.
  [[nodiscard]] std::uint64_t& middle() const noexcept { return word(0); }
  [[nodiscard]] std::uint64_t* stamps(std::uint64_t slot) const noexcept {
    return &word((kCacheLine + slot * slot_bytes()) / sizeof(std::uint64_t));
  }
  [[nodiscard]] std::byte* pixels(std::uint64_t slot) const noexcept {
    return memory_ + 2 * kCacheLine + slot * slot_bytes();
  }
  [[nodiscard]] std::size_t frame_bytes() const noexcept { return frame_bytes_; }

 private:
  [[nodiscard]] std::uint64_t slot_bytes() const noexcept {
    return kCacheLine + round_to_line(frame_bytes_);
  }
  [[nodiscard]] std::uint64_t& word(std::uint64_t index) const noexcept {
    return reinterpret_cast<std::uint64_t*>(memory_)[index];
  }

  std::byte* memory_ = nullptr;
  std::size_t frame_bytes_ = 0;
};

// Gives `own` to the other side with `flags`, and takes the middle slot. An index that cannot be,
// from a memory that was overwritten, changes nothing here.
inline void swap_slots(const FrameSlots& slots, std::uint64_t& own, std::uint64_t flags) noexcept {
  const std::uint64_t taken =
      shared_word(slots.middle()).exchange(own | flags, std::memory_order_acq_rel) & 3;
  if (taken < FrameSlots::kSlots) own = taken;
}

class FrameWriter {
 public:
  FrameWriter() = default;
  explicit FrameWriter(const FrameSlots& slots) noexcept : slots_(slots) {}

  // Publishes a frame of `frame_bytes`.
  void write(const void* pixels, std::int64_t captured_ns) noexcept {
    std::uint64_t* stamps = slots_.stamps(own_);
    stamps[0] = static_cast<std::uint64_t>(captured_ns);
    stamps[1] = ++count_;
    std::memcpy(slots_.pixels(own_), pixels, slots_.frame_bytes());
    swap_slots(slots_, own_, FrameSlots::kFresh);
  }

 private:
  FrameSlots slots_;
  std::uint64_t own_ = 1;
  std::uint64_t count_ = 0;
};

class FrameReader {
 public:
  FrameReader() = default;
  explicit FrameReader(const FrameSlots& slots) noexcept : slots_(slots) {}

  // Returns the newest frame; it stays as it is until the next call.
  [[nodiscard]] FrameView newest() noexcept {
    const std::uint64_t middle = shared_word(slots_.middle()).load(std::memory_order_relaxed);
    if ((middle & FrameSlots::kFresh) != 0) swap_slots(slots_, own_, 0);
    const std::uint64_t* stamps = slots_.stamps(own_);
    if (stamps[1] == 0) return {};
    return {{slots_.pixels(own_), slots_.frame_bytes()},
            static_cast<std::int64_t>(stamps[0]),
            stamps[1]};
  }

 private:
  FrameSlots slots_;
  std::uint64_t own_ = 2;
};

}  // namespace flux
