// A bare timer: wakes on an absolute grid and writes down when. What a control loop can at best do
// on this machine, at this minute.
//
//   c++ -O2 -std=c++20 -o bare_timer benchmarks/bare_timer.cpp
//   bare_timer HZ SECONDS PRIORITY   (0: the ordinary scheduler; else SCHED_FIFO)
//
// Prints "fifo N" or "other 0", what was got, and then one line per wake-up: the deadline and when
// the thread ran, in nanoseconds on the monotonic clock. Like a control loop it skips the deadlines
// that passed while it was late. SIGTERM ends it early.
#include <sched.h>
#include <sys/mman.h>

#include <cinttypes>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <utility>
#include <vector>

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

volatile std::sig_atomic_t is_ended = 0;

void end(int /*signal*/) { is_ended = 1; }

std::int64_t now_ns() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec * kSecond + time.tv_nsec;
}

void sleep_until(std::int64_t at_ns) {
  const timespec time{.tv_sec = at_ns / kSecond, .tv_nsec = at_ns % kSecond};
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fputs("usage: bare_timer HZ SECONDS PRIORITY\n", stderr);
    return 2;
  }
  const auto period_ns = static_cast<std::int64_t>(1e9 / std::atof(argv[1]));
  const auto length_ns = static_cast<std::int64_t>(1e9 * std::atof(argv[2]));
  const int priority = std::atoi(argv[3]);
  const sched_param wanted{.sched_priority = priority};
  const bool is_fifo = priority > 0 && sched_setscheduler(0, SCHED_FIFO, &wanted) == 0;
  static_cast<void>(mlockall(MCL_CURRENT));

  std::signal(SIGTERM, end);
  std::vector<std::pair<std::int64_t, std::int64_t>> wakes;
  wakes.reserve(static_cast<std::size_t>(length_ns / period_ns) + 2);
  const std::int64_t begin_ns = now_ns() + period_ns;
  std::int64_t deadline_ns = begin_ns;
  while (deadline_ns < begin_ns + length_ns) {
    sleep_until(deadline_ns);
    if (is_ended != 0) break;
    const std::int64_t woke_ns = now_ns();
    wakes.emplace_back(deadline_ns, woke_ns);
    deadline_ns += period_ns * (1 + (woke_ns - deadline_ns) / period_ns);
  }
  std::printf("%s %d\n", is_fifo ? "fifo" : "other", is_fifo ? priority : 0);
  for (const auto& [planned_ns, woke_ns] : wakes) {
    std::printf("%" PRId64 " %" PRId64 "\n", planned_ns, woke_ns);
  }
  return 0;
}
