// Both ends of one driver memory, and commands and states to send through it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "check.hpp"
#include "flux/clock.hpp"
#include "flux/shared_memory_link.hpp"
#include "flux_driver.h"

namespace flux::test {

// A slow loop, so that a busy machine does not make a policy silent.
inline SharedMemoryLinkConfig small_config(double control_hz = 1.0) {
  return {.action_dim = 3,
          .state_dim = 3,
          .images = {{4, 6}, {2, 2}},
          .control_hz = control_hz,
          .max_step = {0.1, 0.1, 0.2}};
}

struct DriverRig {
  explicit DriverRig(const SharedMemoryLinkConfig& config = small_config()) : link(config) {
    char error[256] = {};
    driver = flux_driver_open(link.fd(), error, sizeof error);
    if (driver == nullptr) throw Failure(error);
    values.resize(config.action_dim);
  }
  DriverRig(const DriverRig&) = delete;
  DriverRig& operator=(const DriverRig&) = delete;
  ~DriverRig() { flux_driver_close(driver); }

  void publish_state(const std::vector<float>& state, std::int64_t captured_ns = 1) const {
    CHECK_EQUAL(flux_driver_publish_state(driver, state.data(),
                                          static_cast<std::uint32_t>(state.size()), captured_ns),
                FLUX_DRIVER_OK);
  }
  // Both sides begin a session.
  void begin(std::uint64_t session) {
    CHECK_EQUAL(flux_driver_begin(driver, session), FLUX_DRIVER_OK);
    link.announce(LinkPhase::kRunning, StopCategory::kStopKeepPower, session);
  }
  std::int64_t send(const std::vector<float>& command, std::uint64_t session,
                    std::uint64_t sequence = 1) {
    return link.send(
        command,
        {.sequence = sequence, .session = session, .tick_ns = 5, .observed_ns = 6, .flags = 7});
  }
  // What the driver gets, without waiting.
  int take() { return flux_driver_wait_command(driver, values.data(), &command, 0); }
  int send_and_take(const std::vector<float>& command_values, std::uint64_t session) {
    send(command_values, session);
    return take();
  }
  int watch() { return flux_driver_watch(driver, &category); }

  SharedMemoryLink link;
  FluxDriver* driver = nullptr;
  FluxDriverCommand command{};
  std::vector<float> values;
  std::uint32_t category = 9;
};

}  // namespace flux::test
