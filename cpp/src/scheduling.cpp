#include "flux/scheduling.hpp"

#include <array>
#include <cerrno>
#include <system_error>

#if defined(__linux__)
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace flux {
namespace {

#if defined(__linux__)

constexpr std::size_t kStackBytes = 64UL * 1024;

std::string error_text(const char* call) {
  return std::string(call) + ": " + std::generic_category().message(errno);
}

void set_priority(Granted& priority) {
  if (priority.asked == 0) return;
  const ::sched_param param{.sched_priority = static_cast<int>(priority.asked)};
  if (::sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param) == 0) {
    priority.got = priority.asked;
  } else {
    priority.error = error_text("sched_setscheduler");
  }
}

void set_cpu(Granted& cpu) {
  if (cpu.asked < 0) return;
  ::cpu_set_t set;
  CPU_ZERO(&set);
  // One that the set has no room for leaves it empty, which is refused.
  if (cpu.asked < CPU_SETSIZE) CPU_SET(static_cast<std::size_t>(cpu.asked), &set);
  if (::sched_setaffinity(0, sizeof(set), &set) == 0) {
    cpu.got = cpu.asked;
  } else {
    cpu.error = error_text("sched_setaffinity");
  }
}

void lock(std::span<const std::byte> memory, Granted& locked) {
  if (memory.empty()) return;
  locked.asked += static_cast<long>(memory.size());
  if (::mlock(memory.data(), memory.size()) == 0) {
    locked.got += static_cast<long>(memory.size());
  } else {
    locked.error = error_text("mlock");
  }
}

// Touches and locks the part of the stack that the coming calls use. The pages stay locked when
// this function returns.
[[gnu::noinline]] void lock_stack(Granted& locked) {
  std::array<std::byte, kStackBytes> stack;
  volatile std::byte* touched = stack.data();
  for (std::size_t i = 0; i < stack.size(); i += 1024) touched[i] = std::byte{0};
  lock(stack, locked);
}

#endif

}  // namespace

Scheduling schedule_this_thread(const SchedulingRequest& request,
                                std::span<const std::span<const std::byte>> memory) {
  Scheduling result{.priority = {.asked = request.priority},
                    .cpu = {.asked = request.cpu, .got = -1},
                    .locked_bytes = {}};
#if defined(__linux__)
  set_cpu(result.cpu);
  if (request.lock_memory) {
    lock_stack(result.locked_bytes);
    for (const std::span<const std::byte> part : memory) lock(part, result.locked_bytes);
  }
  set_priority(result.priority);
#else
  (void)memory;
  const char* unsupported = "not supported on this system";
  if (request.priority != 0) result.priority.error = unsupported;
  if (request.cpu >= 0) result.cpu.error = unsupported;
  if (request.lock_memory) result.locked_bytes.error = unsupported;
#endif
  return result;
}

}  // namespace flux
