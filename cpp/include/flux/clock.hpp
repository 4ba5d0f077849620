// An interface to time, so that tests and simulations do not have to wait.
#pragma once

#include <atomic>
#include <cstdint>

namespace flux {

class Clock {
 public:
  Clock() = default;
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  virtual ~Clock() = default;

  // Nanoseconds since an arbitrary starting point; never decreases.
  [[nodiscard]] virtual std::int64_t now_ns() const noexcept = 0;
  // Returns when now_ns() >= deadline_ns.
  virtual void sleep_until_ns(std::int64_t deadline_ns) noexcept = 0;
};

// The machine's monotonic clock. Sleeps until absolute times, so that delays do not accumulate.
class MonotonicClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t now_ns() const noexcept override;
  void sleep_until_ns(std::int64_t deadline_ns) noexcept override;
};

// A clock that advances only when it is slept on or advanced explicitly.
class SimulatedClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t now_ns() const noexcept override { return now_ns_.load(); }
  void sleep_until_ns(std::int64_t deadline_ns) noexcept override {
    if (deadline_ns > now_ns_.load()) now_ns_.store(deadline_ns);
  }
  void advance_ns(std::int64_t duration_ns) noexcept { now_ns_.fetch_add(duration_ns); }

 private:
  std::atomic<std::int64_t> now_ns_{0};
};

[[nodiscard]] constexpr double to_seconds(std::int64_t nanoseconds) noexcept {
  return static_cast<double>(nanoseconds) * 1e-9;
}

}  // namespace flux
