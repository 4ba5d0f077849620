#include "chunking.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "flux/continuation.hpp"
#include "flux/tensor.hpp"

namespace flux::bindings {
namespace {

namespace py = pybind11;

ContinuationMethod method_named(const std::string& name) {
  if (name == "prefix") return ContinuationMethod::kPrefix;
  if (name == "guidance") return ContinuationMethod::kGuidance;
  throw std::invalid_argument(expected_got("method", "'prefix' or 'guidance'", "'" + name + "'"));
}

GuidanceSchedule schedule_named(const std::string& name) {
  if (name == "exp") return GuidanceSchedule::kExponential;
  if (name == "linear") return GuidanceSchedule::kLinear;
  if (name == "ones") return GuidanceSchedule::kOnes;
  if (name == "zeros") return GuidanceSchedule::kZeros;
  throw std::invalid_argument(
      expected_got("schedule", "'exp', 'linear', 'ones' or 'zeros'", "'" + name + "'"));
}

ContinuationSettings make_settings(const std::string& method, std::optional<int> prefix_len,
                                   std::optional<int> decay_end, const std::string& schedule,
                                   double max_guidance_weight, bool use_vjp,
                                   std::vector<int> delays) {
  if (use_vjp) {
    throw std::invalid_argument(
        expected_got("use_vjp", "False, because an exported graph has no Jacobian of the network",
                     "True. Leave it out; guidance then pulls without the Jacobian"));
  }
  return {.method = method_named(method),
          .prefix_len = prefix_len.value_or(-1),
          .decay_end = decay_end.value_or(-1),
          .schedule = schedule_named(schedule),
          .max_guidance_weight = max_guidance_weight,
          .delays = std::move(delays)};
}

std::optional<int> delay_or_none(int delay) {
  return delay < 0 ? std::nullopt : std::optional(delay);
}

}  // namespace

Mode mode_named(const std::string& name) {
  for (const Mode mode : {Mode::kSync, Mode::kAsync, Mode::kEnsemble, Mode::kRtc}) {
    if (name == mode_name(mode)) return mode;
  }
  throw std::invalid_argument(
      expected_got("mode", "'sync', 'async', 'ensemble' or 'rtc'", "'" + name + "'"));
}

void bind_chunking(py::module_& module) {
  const ContinuationSettings defaults;
  py::class_<ContinuationSettings>(module, "ContinuationSettings",
                                   "How a chunk continues the running one.")
      .def(py::init(&make_settings), py::kw_only(), py::arg("method") = "prefix",
           py::arg("prefix_len").none(true) = py::none(),
           py::arg("decay_end").none(true) = py::none(), py::arg("schedule") = "exp",
           py::arg("max_guidance_weight") = defaults.max_guidance_weight,
           py::arg("use_vjp") = false, py::arg("delays") = defaults.delays)
      .def(
          "usable_delay",
          [](const ContinuationSettings& settings, int rows, int execution_horizon,
             int action_horizon) {
            return delay_or_none(usable_delay(settings, rows, execution_horizon, action_horizon));
          },
          py::arg("rows"), py::kw_only(), py::arg("execution_horizon"), py::arg("action_horizon"))
      .def(
          "largest_usable_delay",
          [](const ContinuationSettings& settings, int execution_horizon, int action_horizon) {
            return delay_or_none(largest_usable_delay(settings, execution_horizon, action_horizon));
          },
          py::kw_only(), py::arg("execution_horizon"), py::arg("action_horizon"));
}

}  // namespace flux::bindings
