// How the operating system treats the control thread: what was asked for, and what was got.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace flux {

struct SchedulingRequest {
  int priority = 0;         // of SCHED_FIFO, 1 to 99; 0 keeps the ordinary scheduling
  int cpu = -1;             // the only CPU to run on; -1 for any
  bool lock_memory = true;  // keep what a tick touches from being paged out
};

// `error` says why `got` is not `asked`; empty if it is, or if nothing was asked for.
struct Granted {
  long asked = 0;
  long got = 0;
  std::string error = {};
};

struct Scheduling {
  Granted priority;
  Granted cpu;  // its number; -1 for any
  Granted locked_bytes;
};

// Applies a request to the calling thread: SCHED_FIFO, not inherited by its children; affinity; and
// locking of its stack and of `memory`, not of the whole process. Never fails: the result says what
// was refused.
[[nodiscard]] Scheduling schedule_this_thread(const SchedulingRequest& request,
                                              std::span<const std::span<const std::byte>> memory);

}  // namespace flux
