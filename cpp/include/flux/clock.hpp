// An interface to time, so that tests do not have to wait.
#pragma once

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

[[nodiscard]] constexpr double to_seconds(std::int64_t nanoseconds) noexcept {
  return static_cast<double>(nanoseconds) * 1e-9;
}

}  // namespace flux
