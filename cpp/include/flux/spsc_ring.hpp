// A ring of records of one size, from one writing thread to one reading thread.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace flux {

// All memory is allocated by the constructor. A record that does not fit is dropped and counted.
class SpscRing {
 public:
  // Args:
  //   record_bytes: size of a record; a multiple of 8.
  //   capacity: records.
  SpscRing(std::size_t record_bytes, std::size_t capacity)
      : record_bytes_(record_bytes), capacity_(capacity), bytes_(record_bytes * capacity) {}

  [[nodiscard]] std::size_t record_bytes() const noexcept { return record_bytes_; }
  [[nodiscard]] std::span<const std::byte> memory() const noexcept { return bytes_; }

  // Writer: where the next record belongs, or null if the ring is full. The record is readable
  // after publish().
  [[nodiscard]] std::byte* claim() noexcept {
    const std::uint64_t written = written_.load(std::memory_order_relaxed);
    if (written - read_.load(std::memory_order_acquire) == capacity_) {
      dropped_.fetch_add(1, std::memory_order_relaxed);
      return nullptr;
    }
    return at(written);
  }
  void publish() noexcept {
    written_.store(written_.load(std::memory_order_relaxed) + 1, std::memory_order_release);
  }

  // Writer: whether the next record would be dropped.
  [[nodiscard]] bool is_full() const noexcept {
    return written_.load(std::memory_order_relaxed) - read_.load(std::memory_order_acquire) ==
           capacity_;
  }

  // Reader: how many records can be read now.
  [[nodiscard]] std::size_t size() const noexcept {
    return static_cast<std::size_t>(written_.load(std::memory_order_acquire) -
                                    read_.load(std::memory_order_relaxed));
  }
  // Reader: moves the `count` oldest records, at most size(), to `out`.
  void read(std::byte* out, std::size_t count) noexcept {
    const std::uint64_t first = read_.load(std::memory_order_relaxed);
    for (std::uint64_t i = 0; i < count; ++i) {
      std::memcpy(out + i * record_bytes_, at(first + i), record_bytes_);
    }
    read_.store(first + count, std::memory_order_release);
  }

  // Any thread: records that did not fit so far.
  [[nodiscard]] std::uint64_t dropped() const noexcept {
    return dropped_.load(std::memory_order_relaxed);
  }

 private:
  [[nodiscard]] std::byte* at(std::uint64_t index) noexcept {
    return bytes_.data() + (index % capacity_) * record_bytes_;
  }

  std::size_t record_bytes_;
  std::size_t capacity_;
  std::vector<std::byte> bytes_;
  std::atomic<std::uint64_t> dropped_{0};
  alignas(64) std::atomic<std::uint64_t> written_{0};
  alignas(64) std::atomic<std::uint64_t> read_{0};
};

}  // namespace flux
