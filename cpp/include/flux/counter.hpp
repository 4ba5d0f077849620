// A count that one thread writes and others read.
#pragma once

#include <atomic>
#include <cstdint>

namespace flux {

class Counter {
 public:
  void add(std::uint64_t amount = 1) noexcept {
    // A plain load and store are enough, as there is only one writer.
    value_.store(get() + amount, std::memory_order_relaxed);
  }
  void reset() noexcept { value_.store(0, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t get() const noexcept {
    return value_.load(std::memory_order_relaxed);
  }

 private:
  std::atomic<std::uint64_t> value_{0};
};

}  // namespace flux
