// Judges the commands that a filter sends, from nothing but the commands and their times: finite
// differences, and a stop that is integrated in small steps. Shares no formula with the filter.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>

namespace flux::test {

struct JointLimits {
  double lower = 0.0;
  double upper = 0.0;
  double velocity = 0.0;
  double acceleration = 0.0;
  double jerk = 0.0;
};

// How far a joint still rises that brakes at once, by integration. A joint that brakes so hard that
// it turns back counts as if it braked just hard enough to come to rest.
inline double integrated_rise(double v, double a, const JointLimits& limits) {
  const double jerk = limits.jerk;
  if (a < 0.0 && v <= 0.0) return 0.0;
  if (a < 0.0 && v < a * a / (2.0 * jerk)) a = -std::sqrt(2.0 * jerk * v);
  const double scale =
      std::abs(a) / jerk + std::sqrt(std::abs(v) / jerk) + std::abs(v) / limits.acceleration;
  const double h = 3e-4 * scale;
  double x = 0.0;
  double highest = 0.0;
  for (int i = 0; i < 60000 && (v > 0.0 || a > 0.0); ++i) {
    double j = a > -limits.acceleration ? -jerk : 0.0;
    if (a < 0.0 && v <= a * a / (2.0 * jerk)) j = jerk;
    x += v * h + a * h * h / 2.0 + j * h * h * h / 6.0;
    v += a * h + j * h * h / 2.0;
    a = std::max(a + j * h, -limits.acceleration);
    highest = std::max(highest, x);
  }
  return highest;
}

// Whether a joint at p can still come to rest within its limits, with a margin of 1 % of the way
// that this takes.
inline bool can_surely_stop(double p, double v, double a, const JointLimits& limits) {
  const auto gain = [&](double up) { return up > 0.0 ? up * up / (2.0 * limits.jerk) : 0.0; };
  const double most = 0.999 * limits.velocity;
  if (v + gain(a) > most || -v + gain(-a) > most) return false;
  // Never faster than this, and for no longer than the jerk and then the brake take.
  const double fastest = std::abs(v) + a * a / (2.0 * limits.jerk);
  const double far = fastest * (std::abs(a) / limits.jerk + fastest / limits.acceleration +
                                2.0 * limits.acceleration / limits.jerk);
  if (p + far <= limits.upper && p - far >= limits.lower) return true;
  return p + 1.01 * integrated_rise(v, a, limits) <= limits.upper &&
         p - 1.01 * integrated_rise(-v, -a, limits) >= limits.lower;
}

// The finite differences of one joint's commands, and how far rounding the positions to float32 may
// have moved each of them.
class JointJudge {
 public:
  struct Motion {
    double p = 0.0, v = 0.0, a = 0.0, j = 0.0;
    double p_error = 0.0, v_error = 0.0, a_error = 0.0, j_error = 0.0;
  };

  explicit JointJudge(const JointLimits& limits) : limits_(limits) {}

  void reset(float command) { last_ = {.p = static_cast<double>(command)}; }

  [[nodiscard]] Motion next(float command, double dt) const {
    Motion now;
    now.p = static_cast<double>(command);
    now.p_error = std::max(std::abs(now.p) * 0x1p-24, 0x1p-149);
    now.v = (now.p - last_.p) / dt;
    now.v_error = (now.p_error + last_.p_error) / dt;
    now.a = (now.v - last_.v) / dt;
    now.a_error = (now.v_error + last_.v_error) / dt;
    now.j = (now.a - last_.a) / dt;
    now.j_error = (now.a_error + last_.a_error) / dt;
    return now;
  }

  // Whether a step to a row is surely within the limits, and the joint can surely stop after it.
  [[nodiscard]] bool is_surely_admissible(float row, double dt) const {
    const Motion now = next(row, dt);
    if (now.p < limits_.lower || now.p > limits_.upper) return false;
    if (std::abs(now.v) + now.v_error > limits_.velocity) return false;
    if (std::abs(now.a) + now.a_error > limits_.acceleration) return false;
    if (std::abs(now.j) + now.j_error > limits_.jerk) return false;
    for (const double v_sign : {-1.0, 1.0}) {
      for (const double a_sign : {-1.0, 1.0}) {
        const double v = now.v + v_sign * now.v_error;
        if (!can_surely_stop(now.p, v, now.a + a_sign * now.a_error, limits_)) return false;
      }
    }
    return true;
  }

  // Takes a command; returns which limit it breaks, or null.
  [[nodiscard]] const char* take(float command, double dt) {
    const Motion now = next(command, dt);
    last_ = now;
    // The filter works in float64.
    constexpr double kMost = 1.0 + 1e-8;
    if (!std::isfinite(command)) return "not finite";
    if (now.p < limits_.lower || now.p > limits_.upper) return "position";
    if (std::abs(now.v) > limits_.velocity * kMost + now.v_error) return "velocity";
    if (std::abs(now.a) > limits_.acceleration * kMost + now.a_error) return "acceleration";
    if (std::abs(now.j) > limits_.jerk * kMost + now.j_error) return "jerk";
    return nullptr;
  }

 private:
  JointLimits limits_;
  Motion last_;
};

}  // namespace flux::test
