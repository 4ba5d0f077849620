#include "flux/safety_filter.hpp"

#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <utility>

#include "arrays.hpp"
#include "module.hpp"

namespace flux::bindings {
namespace {

using LimitArray = py::array_t<double, py::array::c_style | py::array::forcecast>;

SafetyLimits make_limits(const LimitArray& lower, const LimitArray& upper,
                         const LimitArray& max_velocity, const LimitArray& max_acceleration,
                         const LimitArray& max_jerk) {
  return {vector_of(lower, "lower"), vector_of(upper, "upper"),
          vector_of(max_velocity, "max_velocity"), vector_of(max_acceleration, "max_acceleration"),
          vector_of(max_jerk, "max_jerk")};
}

FloatArray require_row(const SafetyFilter& filter, const py::handle& value, const char* name) {
  return require_floats(value, name, {{static_cast<std::int64_t>(filter.action_dim())}});
}

FloatArray require_rows(const SafetyFilter& filter, const py::object& value, const char* name) {
  const auto action_dim = static_cast<std::int64_t>(filter.action_dim());
  if (value.is_none()) return FloatArray(std::vector<py::ssize_t>{0, action_dim});
  std::int64_t rows = 0;
  if (py::isinstance<py::array>(value)) {
    const auto array = py::reinterpret_borrow<py::array>(value);
    if (array.ndim() > 0) rows = array.shape(0);
  }
  return require_floats(value, name, {{rows, action_dim}});
}

// The spacing of a tick; a nominal period if none is given.
double require_dt(const SafetyFilter& filter, std::optional<double> dt_s) {
  if (!dt_s.has_value()) return filter.period_s();
  // Written so that a NaN fails.
  if (*dt_s > 0.0) return *dt_s;
  throw std::invalid_argument(expected_got("dt_s", "a number above 0", std::to_string(*dt_s)));
}

void reset(SafetyFilter& filter, const py::handle& command) {
  const FloatArray row = require_row(filter, command, "command");
  for (const float value : span_of(row)) {
    if (std::isfinite(value)) continue;
    throw std::invalid_argument(
        expected_got("command", "finite numbers", std::to_string(value) + " among them"));
  }
  filter.reset(span_of(row));
}

std::uint32_t apply(SafetyFilter& filter, const py::handle& action, const py::object& preview,
                    std::optional<double> dt_s) {
  const FloatArray row = require_row(filter, action, "action");
  const FloatArray rows = require_rows(filter, preview, "preview");
  return filter.apply(span_of(row), span_of(rows), require_dt(filter, dt_s));
}

FloatArray command_of(const SafetyFilter& filter) {
  const std::span<const float> command = filter.command();
  return FloatArray(static_cast<py::ssize_t>(command.size()), command.data());
}

void bind_flags(py::module_& module) {
  module.attr("HELD") = static_cast<int>(kHeld);
  module.attr("CLIPPED_POSITION") = static_cast<int>(kClippedPosition);
  module.attr("CLIPPED_VELOCITY") = static_cast<int>(kClippedVelocity);
  module.attr("NON_FINITE") = static_cast<int>(kNonFinite);
  module.attr("STALE") = static_cast<int>(kStale);
  module.attr("NEW_CHUNK") = static_cast<int>(kNewChunk);
  module.attr("CLIPPED_ACCELERATION") = static_cast<int>(kClippedAcceleration);
  module.attr("CLIPPED_JERK") = static_cast<int>(kClippedJerk);
}

}  // namespace

void bind_safety_filter(py::module_& module) {
  bind_flags(module);
  const LimitArray unlimited(0);
  py::class_<SafetyLimits>(module, "SafetyLimits",
                           "Limits per joint of position, velocity, acceleration and jerk.")
      .def(py::init(&make_limits), py::kw_only(), py::arg("lower"), py::arg("upper"),
           py::arg("max_velocity"), py::arg("max_acceleration") = unlimited,
           py::arg("max_jerk") = unlimited);
  py::class_<SafetyFilter>(module, "SafetyFilter", "Keeps every command within the limits.")
      .def(py::init<SafetyLimits, double>(), py::kw_only(), py::arg("limits"),
           py::arg("control_hz"))
      .def("reset", &reset, py::arg("command"))
      .def("apply", &apply, py::arg("action"), py::arg("preview") = py::none(),
           py::arg("dt_s") = py::none())
      .def(
          "brake",
          [](SafetyFilter& filter, std::optional<double> dt_s) {
            filter.brake(require_dt(filter, dt_s));
          },
          py::arg("dt_s") = py::none())
      .def(
          "return_to_limits",
          [](SafetyFilter& filter, std::optional<double> dt_s) {
            filter.return_to_limits(require_dt(filter, dt_s));
          },
          py::arg("dt_s") = py::none())
      .def_property_readonly("command", &command_of)
      .def("is_at_rest", &SafetyFilter::is_at_rest)
      .def("is_within_limits", &SafetyFilter::is_within_limits)
      .def(
          "rest_time_bound_s",
          [](const SafetyFilter& filter, std::optional<double> max_dt_s) {
            return filter.rest_time_bound_s(require_dt(filter, max_dt_s));
          },
          py::arg("max_dt_s") = py::none());
}

}  // namespace flux::bindings
