// SIGINT, SIGTERM and SIGHUP as a number that the control thread reads at every tick.
#pragma once

#include <atomic>

namespace flux {

// While an object of this class lives, the first of these signals is remembered and later ones are
// only counted; nothing is interrupted. Signal handlers belong to the whole process, so there may
// be only one such object at a time. The destructor restores the handlers that were there before.
class StopSignals {
 public:
  // Throws std::logic_error if there is another one, std::system_error if the system refuses.
  StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;
  ~StopSignals();

  // The number of the first signal; 0 if none has arrived. Valid for the life of the process.
  [[nodiscard]] static const std::atomic<int>& first() noexcept;
  [[nodiscard]] int signal() const noexcept { return first().load(); }
  // How many signals have arrived.
  [[nodiscard]] static int count() noexcept;
};

}  // namespace flux
