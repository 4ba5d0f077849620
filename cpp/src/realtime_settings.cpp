#include "flux/realtime_settings.hpp"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "flux/tensor.hpp"

namespace flux {
namespace {

constexpr double kStartTolerance = 0.05;
// What remains of multiplying times and rates.
constexpr double kRounding = 1e-9;
constexpr double kMostRows = 1e6;
// Rows for which memory is reserved if chunks do not come from a policy: so many, or more if the
// horizon is long.
constexpr std::size_t kReservedRows = 1024;
constexpr std::size_t kReservedChunks = 4;

[[noreturn]] void refuse(const std::string& name, const std::string& expected,
                         const std::string& got) {
  throw std::invalid_argument(expected_got(name, expected, got));
}

// Written so that a NaN fails.
void require_above(const char* name, double value, double bound) {
  if (std::isfinite(value) && value > bound) return;
  refuse(name, "a finite number above " + std::to_string(bound), std::to_string(value));
}

void require_not_negative(const char* name, double value) {
  if (std::isfinite(value) && value >= 0.0) return;
  refuse(name, "a finite number of at least 0", std::to_string(value));
}

template <typename Value>
void require_joints(const char* name, const std::vector<Value>& values, std::size_t action_dim,
                    bool may_be_negative) {
  if (values.empty()) return;
  if (values.size() != action_dim) {
    refuse(name, std::to_string(action_dim) + " values", std::to_string(values.size()));
  }
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (std::isfinite(values[i]) && (may_be_negative || values[i] >= Value{0})) continue;
    refuse(std::string(name) + "[" + std::to_string(i) + "]",
           may_be_negative ? "a finite number" : "a finite number of at least 0",
           std::to_string(values[i]));
  }
}

void check_rates(const RealtimeSettings& settings) {
  require_not_negative("command_hz", settings.command_hz);
  if (settings.commands_hz() < settings.control_hz) {
    refuse("command_hz", "at least control_hz " + std::to_string(settings.control_hz),
           std::to_string(settings.command_hz));
  }
  // Written so that a NaN fails.
  if (!(settings.speed > 0.0 && settings.speed <= 1.0)) {
    refuse("speed", "above 0 and at most 1", std::to_string(settings.speed));
  }
  const bool is_row_per_tick =
      settings.commands_hz() == settings.control_hz && settings.speed == 1.0;
  if (settings.is_by_differences() && !is_row_per_tick) {
    refuse("command_hz and speed",
           "one command per row for a robot that is commanded by differences, which cannot be "
           "interpolated",
           std::to_string(settings.commands_hz()) + " commands per second at speed " +
               std::to_string(settings.speed));
  }
}

void check_times(const RealtimeSettings& settings) {
  require_above("control_hz", settings.control_hz, 0.0);
  check_rates(settings);
  require_not_negative("hold_for_s", settings.hold_for_s);
  require_not_negative("chunk_hold_for_s", settings.chunk_hold_for_s);
  if (settings.waits_for_policy() && settings.chunk_hold_for_s < settings.hold_for_s) {
    refuse("chunk_hold_for_s", "0, or at least hold_for_s " + std::to_string(settings.hold_for_s),
           std::to_string(settings.chunk_hold_for_s));
  }
  require_not_negative("stale_after_s", settings.stale_after_s);
  require_above("max_state_age_s", settings.max_state_age_s, 0.0);
  require_above("max_frame_age_s", settings.max_frame_age_s, 0.0);
  require_not_negative("inference_deadline_s", settings.inference_deadline_s);
  require_not_negative("first_latency_s", settings.first_latency_s);
  require_above("record_s", settings.record_s, 0.0);
}

void check_slow_start(const RealtimeSettings& settings) {
  require_not_negative("slow_start_s", settings.slow_start_s);
  // Written so that a NaN fails.
  if (!(settings.slow_start_speed > 0.0 && settings.slow_start_speed <= 1.0)) {
    refuse("slow_start_speed", "above 0 and at most 1", std::to_string(settings.slow_start_speed));
  }
}

// Part of a difference is another motion, and no gripper is where its command says.
void check_differences(const RealtimeSettings& settings) {
  if (!settings.is_by_differences()) return;
  if (settings.slow_start_s > 0.0 && settings.slow_start_speed < 1.0) {
    refuse("slow_start_s", "0 for a robot that is commanded by differences",
           std::to_string(settings.slow_start_s));
  }
  if (!settings.grippers.closes_below.empty()) {
    refuse("closes_below", "no values for a robot that is commanded by differences",
           std::to_string(settings.grippers.closes_below.size()));
  }
}

void check_counts(const RealtimeSettings& settings) {
  if (settings.execution_horizon < 1) {
    refuse("execution_horizon", "at least 1", std::to_string(settings.execution_horizon));
  }
  if (settings.max_retries < 0) {
    refuse("max_retries", "at least 0", std::to_string(settings.max_retries));
  }
  const int priority = settings.scheduling.priority;
  if (priority < 0 || priority > 99) refuse("priority", "0 to 99", std::to_string(priority));
}

}  // namespace

std::int64_t RealtimeSettings::period_ns() const noexcept {
  return static_cast<std::int64_t>(std::ceil(1e9 / commands_hz()));
}

double RealtimeSettings::slow_start(std::uint64_t executed_ticks) const noexcept {
  const double past_s = static_cast<double>(executed_ticks) / commands_hz() - slow_start_s;
  if (slow_start_s <= 0.0 || past_s >= kSpeedUpS) return 1.0;
  const double share = std::max(past_s, 0.0) / kSpeedUpS;
  return slow_start_speed + (1.0 - slow_start_speed) * share;
}

RealtimeSettings checked(RealtimeSettings settings, const RobotLink& link) {
  check_times(settings);
  check_slow_start(settings);
  check_counts(settings);
  check_differences(settings);
  const std::size_t action_dim = link.action_dim();
  require_joints("max_following_error", settings.max_following_error, action_dim, false);
  require_joints("max_border_jump", settings.max_border_jump, action_dim, false);
  require_joints("start_tolerance", settings.start_tolerance, action_dim, false);
  require_joints("rest_command", settings.rest_command, action_dim, true);
  check(settings.grippers, action_dim);
  if (!settings.is_by_differences() && link.state_dim() != action_dim) {
    refuse("state_dim",
           "the action_dim " + std::to_string(action_dim) + " of a robot without rest_command",
           std::to_string(link.state_dim()));
  }
  for (const std::size_t camera : settings.cameras) {
    if (camera < link.num_cameras()) continue;
    refuse("cameras", "indices below " + std::to_string(link.num_cameras()),
           std::to_string(camera));
  }
  if (settings.start_tolerance.empty()) {
    settings.start_tolerance.assign(action_dim, kStartTolerance);
  }
  return settings;
}

std::size_t max_chunk_rows(const RealtimeSettings& settings, int action_horizon) noexcept {
  if (action_horizon > 0) return static_cast<std::size_t>(action_horizon);
  return std::max(kReservedRows,
                  kReservedChunks * static_cast<std::size_t>(settings.execution_horizon));
}

int first_delay(const RealtimeSettings& settings, int action_horizon) {
  const ContinuationSettings& continuation = settings.continuation;
  check(continuation, action_horizon);
  const double rows = std::ceil(settings.first_latency_s * settings.rows_per_s() - kRounding);
  const int horizon = settings.execution_horizon;
  const int delay = usable_delay(continuation, static_cast<int>(std::min(rows, kMostRows)), horizon,
                                 action_horizon);
  if (delay >= 0) return delay;
  const bool is_prefix = continuation.method == ContinuationMethod::kPrefix;
  refuse("delay",
         "d rows with d <= execution_horizon s <= action_horizon H - d" +
             (is_prefix ? " that the policy was trained with (" + delays_text(continuation) + ")"
                        : std::string()) +
             ", s = " + std::to_string(horizon) + " and H = " + std::to_string(action_horizon),
         "a latency of " + std::to_string(settings.first_latency_s) + " s, which is " +
             std::to_string(static_cast<int>(rows)) + " rows");
}

}  // namespace flux
