// How the operating system treats the control thread: what was asked for, and what was got.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

namespace flux {

struct SchedulingRequest {
  int priority = 0;            // of SCHED_FIFO, 1 to 99; 0 keeps the ordinary scheduling
  std::vector<int> cpus = {};  // the only CPUs to run on; empty for any
  bool lock_memory = true;     // keep what a tick touches from being paged out
};

// `error` says why `got` is not `asked`; empty if it is, or if nothing was asked for.
struct Granted {
  long asked = 0;
  long got = 0;
  std::string error = {};
};

struct Scheduling {
  Granted priority;
  Granted cpus;  // how many
  Granted locked_bytes;
};

// Applies a request to the calling thread: SCHED_FIFO, not inherited by its children; affinity; and
// locking of its stack and of `memory`, not of the whole process. Never fails: the result says what
// was refused.
[[nodiscard]] Scheduling schedule_this_thread(const SchedulingRequest& request,
                                              std::span<const std::span<const std::byte>> memory);

}  // namespace flux
