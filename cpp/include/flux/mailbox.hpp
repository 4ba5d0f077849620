// A mailbox in shared memory for one writer and any number of readers, which always see the newest
// complete message.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace flux {

inline constexpr std::size_t kCacheLine = 64;
static_assert(std::atomic_ref<std::uint64_t>::is_always_lock_free);

[[nodiscard]] constexpr std::uint64_t round_to_line(std::uint64_t bytes) noexcept {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

// A word that another process may be writing.
[[nodiscard]] inline std::atomic_ref<std::uint64_t> shared_word(std::uint64_t& word) noexcept {
  return std::atomic_ref<std::uint64_t>(word);
}

// A view of memory that starts as zeros and is aligned to a cache line. Messages go to four slots
// in turn, each with a sequence lock, so a writer that is interrupted or killed in the middle of a
// message leaves the one before it readable. Nothing here allocates, locks, throws or waits.
class Mailbox {
 public:
  static constexpr std::uint64_t kSlots = 4;
  // A reader tries again only if four messages were written while it copied one.
  static constexpr int kAttempts = 64;

  [[nodiscard]] static constexpr std::uint64_t bytes(std::uint64_t num_words) noexcept {
    return kCacheLine + kSlots * round_to_line((1 + num_words) * sizeof(std::uint64_t));
  }

  Mailbox() = default;
  Mailbox(void* memory, std::size_t num_words) noexcept
      : words_(static_cast<std::uint64_t*>(memory)), num_words_(num_words) {}

  // The number of messages so far.
  [[nodiscard]] std::uint64_t count() const noexcept {
    return shared_word(words_[0]).load(std::memory_order_acquire);
  }

  // Writes a message of `num_words`. A reader that acquires one of its words also sees that the
  // slot is being written, because each word is stored with release order after the odd sequence.
  void write(std::span<const std::uint64_t> message) noexcept {
    const std::uint64_t count = shared_word(words_[0]).load(std::memory_order_relaxed) + 1;
    std::uint64_t* slot = slot_of(count);
    shared_word(slot[0]).store(2 * count - 1, std::memory_order_relaxed);
    for (std::size_t i = 0; i < num_words_; ++i) {
      shared_word(slot[1 + i]).store(message[i], std::memory_order_release);
    }
    shared_word(slot[0]).store(2 * count, std::memory_order_release);
    shared_word(words_[0]).store(count, std::memory_order_release);
  }

  // Copies the newest message and returns its number, counted from 1; returns 0 if there is none,
  // or if the writer was faster kAttempts times in a row.
  [[nodiscard]] std::uint64_t read(std::span<std::uint64_t> message) const noexcept {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const std::uint64_t count = this->count();
      if (count == 0) return 0;
      std::uint64_t* slot = slot_of(count);
      if (shared_word(slot[0]).load(std::memory_order_acquire) != 2 * count) continue;
      for (std::size_t i = 0; i < num_words_; ++i) {
        message[i] = shared_word(slot[1 + i]).load(std::memory_order_acquire);
      }
      if (shared_word(slot[0]).load(std::memory_order_relaxed) == 2 * count) return count;
    }
    return 0;
  }

 private:
  [[nodiscard]] std::uint64_t* slot_of(std::uint64_t count) const noexcept {
    const std::uint64_t stride = round_to_line((1 + num_words_) * sizeof(std::uint64_t));
    return words_ + (kCacheLine + count % kSlots * stride) / sizeof(std::uint64_t);
  }

  std::uint64_t* words_ = nullptr;
  std::size_t num_words_ = 0;
};

}  // namespace flux
