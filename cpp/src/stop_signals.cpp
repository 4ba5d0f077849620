#include "flux/stop_signals.hpp"

#include <array>
#include <cerrno>
#include <csignal>
#include <cstddef>
#include <stdexcept>
#include <system_error>

#include "flux/tensor.hpp"

namespace flux {
namespace {

constexpr std::array kSignals = {SIGINT, SIGTERM, SIGHUP};

// A signal handler can only reach what belongs to the process.
std::atomic<bool> is_installed{false};
std::atomic<int> first_signal{0};
std::atomic<int> num_signals{0};
std::array<struct ::sigaction, kSignals.size()> previous{};

static_assert(std::atomic<int>::is_always_lock_free);

extern "C" void remember_signal(int signal) {
  int none = 0;
  first_signal.compare_exchange_strong(none, signal);
  num_signals.fetch_add(1);
}

void restore(std::size_t count) noexcept {
  for (std::size_t i = 0; i < count; ++i) ::sigaction(kSignals[i], &previous[i], nullptr);
}

}  // namespace

StopSignals::StopSignals() {
  if (is_installed.exchange(true)) {
    throw std::logic_error(expected_got("StopSignals", "one at a time", "a second one"));
  }
  first_signal = 0;
  num_signals = 0;
  struct ::sigaction action{};
  action.sa_handler = remember_signal;
  action.sa_flags = SA_RESTART;
  ::sigemptyset(&action.sa_mask);
  for (std::size_t i = 0; i < kSignals.size(); ++i) {
    if (::sigaction(kSignals[i], &action, &previous[i]) == 0) continue;
    const int error = errno;
    restore(i);
    is_installed = false;
    throw std::system_error(error, std::generic_category(), "sigaction");
  }
}

StopSignals::~StopSignals() {
  restore(kSignals.size());
  is_installed = false;
}

const std::atomic<int>& StopSignals::first() noexcept { return first_signal; }

int StopSignals::count() noexcept { return num_signals.load(); }

}  // namespace flux
