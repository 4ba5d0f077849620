// Time, so that tests and simulators need not wait for it.
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

  // Nanoseconds since an arbitrary moment; never goes back.
  [[nodiscard]] virtual std::int64_t now_ns() const noexcept = 0;
  // Returns when now_ns() >= deadline_ns.
  virtual void sleep_until_ns(std::int64_t deadline_ns) noexcept = 0;
};

// The machine's monotonic clock. Sleeps to absolute times, so that lateness does not add up.
class MonotonicClock final : public Clock {
 public:
  [[nodiscard]] std::int64_t now_ns() const noexcept override;
  void sleep_until_ns(std::int64_t deadline_ns) noexcept override;
};

// Time that passes only when somebody waits for it.
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
