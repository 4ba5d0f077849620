#include <cmath>
#include <cstdio>

#include "flux/faults.hpp"

namespace flux {
namespace {

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

}  // namespace

std::string describe(const Cause& cause) {
  const FaultInfo& info = info_of(cause.fault);
  const std::string unit = std::isnan(cause.value) ? "" : info.unit;
  std::string text = std::string(info.name) + ": " + info.text;
  if (unit.empty() && cause.index < 0) return text;
  text += " (";
  if (cause.index >= 0) {
    const bool is_camera = cause.fault == Fault::kFrameStale || cause.fault == Fault::kFrameTime;
    text += std::string(is_camera ? "camera " : "joint ") + std::to_string(cause.index);
  }
  if (!unit.empty()) {
    if (cause.index >= 0) text += ": ";
    text += number(cause.value);
    // A signal or a count has no limit.
    if (cause.limit != 0.0) text += ", limit " + number(cause.limit);
    text += " " + unit;
  }
  return text + ")";
}

}  // namespace flux
