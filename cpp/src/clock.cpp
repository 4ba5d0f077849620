#include "flux/clock.hpp"

#include <cerrno>
#include <chrono>
#include <ctime>
#include <thread>

namespace flux {

#if defined(__linux__)

std::int64_t MonotonicClock::now_ns() const noexcept {
  ::timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

void MonotonicClock::sleep_until_ns(std::int64_t deadline_ns) noexcept {
  ::timespec deadline{};
  deadline.tv_sec = static_cast<std::time_t>(deadline_ns / 1'000'000'000);
  deadline.tv_nsec = static_cast<long>(deadline_ns % 1'000'000'000);
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &deadline, nullptr) == EINTR) {
  }
}

#else

std::int64_t MonotonicClock::now_ns() const noexcept {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since).count();
}

void MonotonicClock::sleep_until_ns(std::int64_t deadline_ns) noexcept {
  std::this_thread::sleep_until(
      std::chrono::steady_clock::time_point(std::chrono::nanoseconds(deadline_ns)));
}

#endif

}  // namespace flux
