#include "flux/control_loop.hpp"

#include <pybind11/stl.h>

#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "chunking.hpp"
#include "histograms.hpp"
#include "locked.hpp"
#include "module.hpp"

namespace flux::bindings {
namespace {

using ScaleArray = py::array_t<float, py::array::c_style | py::array::forcecast>;
using MaskArray = py::array_t<bool, py::array::c_style | py::array::forcecast>;

std::vector<std::uint8_t> bytes_of(const MaskArray& mask, const char* name) {
  const std::span<const bool> values = vector_of(mask, name);
  return {values.begin(), values.end()};
}

ActionDecoder make_decoder(const ScaleArray& scale, const ScaleArray& offset,
                           const MaskArray& relative_mask,
                           const std::optional<MaskArray>& binary_mask) {
  const std::vector<std::uint8_t> binary =
      binary_mask ? bytes_of(*binary_mask, "binary_mask") : std::vector<std::uint8_t>{};
  return {vector_of(scale, "scale"), vector_of(offset, "offset"),
          bytes_of(relative_mask, "relative_mask"), binary};
}

// The rows of a float32 array (rows, at least `fewest` columns).
FloatArray require_matrix(const py::array& array, const char* name, std::size_t fewest) {
  const bool is_wide = array.ndim() == 2 && array.shape(1) >= static_cast<py::ssize_t>(fewest);
  if (!is_wide) {
    throw std::invalid_argument(expected_got(
        name, "float32 (rows, columns) with at least " + std::to_string(fewest) + " columns",
        describe_array(array)));
  }
  return require_floats(array, name, {{array.shape(0), array.shape(1)}});
}

FloatArray decode(const ActionDecoder& decoder, const py::array& normalised,
                  const py::handle& state) {
  const std::size_t dim = decoder.action_dim();
  const FloatArray rows = require_matrix(normalised, "normalised", dim);
  const FloatArray state_array = require_floats(state, "state", {{static_cast<std::int64_t>(dim)}});
  FloatArray actions({rows.shape(0), static_cast<py::ssize_t>(dim)});
  decoder.decode(span_of(rows), static_cast<std::size_t>(rows.shape(1)), span_of(state_array),
                 {actions.mutable_data(), static_cast<std::size_t>(actions.size())});
  return actions;
}

FloatArray encode(const ActionDecoder& decoder, const py::array& actions, std::size_t network_dim,
                  const py::handle& state) {
  const auto dim = static_cast<std::int64_t>(decoder.action_dim());
  const FloatArray rows = require_matrix(actions, "actions", decoder.action_dim());
  if (rows.shape(1) != dim || static_cast<std::int64_t>(network_dim) < dim) {
    throw std::invalid_argument(expected_got(
        "actions", std::to_string(dim) + " columns and a network_dim of at least as many",
        std::to_string(rows.shape(1)) + " and " + std::to_string(network_dim)));
  }
  const FloatArray state_array = require_floats(state, "state", {{dim}});
  FloatArray normalised({rows.shape(0), static_cast<py::ssize_t>(network_dim)});
  decoder.encode(span_of(rows), network_dim, span_of(state_array),
                 {normalised.mutable_data(), static_cast<std::size_t>(normalised.size())});
  return normalised;
}

// Its destructor waits for a running inference, which may need the GIL.
using LoopHolder = std::unique_ptr<ControlLoop, DeleteUnlocked<ControlLoop>>;

LoopHolder make_loop(std::shared_ptr<Policy> policy, const ActionDecoder& decoder,
                     const SafetyLimits& limits, double control_hz, int execution_horizon,
                     const std::string& mode, int inference_delay, double stale_after_s,
                     double speed, const ContinuationSettings& continuation,
                     std::vector<double> closes_below, std::vector<double> closed_command) {
  const ControlLoopConfig config{
      .control_hz = control_hz,
      .execution_horizon = execution_horizon,
      .mode = mode_named(mode),
      .inference_delay = inference_delay,
      .stale_after_s = stale_after_s,
      .speed = speed,
      .continuation = continuation,
      .grippers = {.closes_below = std::move(closes_below),
                   .closed_command = std::move(closed_command)},
  };
  return LoopHolder(new ControlLoop(config, std::move(policy), decoder, limits));
}

FloatArray require_row(const ControlLoop& loop, const py::handle& value, const char* name) {
  return require_floats(value, name, {{static_cast<std::int64_t>(loop.action_dim())}});
}

void submit(ControlLoop& loop, const py::dict& inputs, const py::handle& state,
            const py::handle& noise) {
  if (loop.policy() == nullptr) {
    throw std::logic_error(
        expected_got("submit", "a loop with a policy", "one without. Use submit_chunk()."));
  }
  const NamedArrays named(inputs, loop.policy()->user_inputs());
  const FloatArray state_array = require_row(loop, state, "state");
  const FloatArray noise_array = require_noise(*loop.policy(), noise);
  const std::span<const float> state_values = span_of(state_array);
  const std::span<const float> noise_values = span_of(noise_array);
  const py::gil_scoped_release release;
  loop.submit(named.views(), state_values, noise_values);
}

void submit_chunk(ControlLoop& loop, const py::array& actions) {
  const auto action_dim = static_cast<std::int64_t>(loop.action_dim());
  const std::int64_t rows = actions.ndim() == 2 ? actions.shape(0) : 0;
  if (rows == 0) {
    throw std::invalid_argument(expected_got(
        "actions", "float32 (H, " + std::to_string(action_dim) + ")", describe_array(actions)));
  }
  loop.submit_chunk(span_of(require_floats(actions, "actions", {{rows, action_dim}})));
}

py::tuple tick(ControlLoop& loop) {
  if (!loop.is_started()) {
    throw std::logic_error(
        expected_got("tick", "a started loop", "one that has not started. Call start() first."));
  }
  {
    const py::gil_scoped_release release;
    loop.wait_for_due_chunk();
  }
  const std::uint32_t flags = loop.tick();
  const std::span<const float> command = loop.command();
  return py::make_tuple(FloatArray(static_cast<py::ssize_t>(command.size()), command.data()),
                        flags);
}

// How many chunks were given how many rows; None in the other modes.
py::object rtc_of(const ControlCounts& counts) {
  if (counts.prefixes.empty()) return py::none();
  py::dict delays;
  for (std::size_t rows = 0; rows < counts.prefixes.size(); ++rows) {
    if (counts.prefixes[rows] > 0) delays[py::int_(rows)] = counts.prefixes[rows];
  }
  py::dict result;
  result["delays"] = delays;
  result["late"] = 0;  // on simulated time, every chunk comes when it is due
  return result;
}

py::dict stats(const ControlLoop& loop) {
  const ControlCounts& counts = loop.counts();
  py::dict violations;
  violations["non_finite"] = counts.non_finite;
  violations["position"] = counts.position;
  violations["velocity"] = counts.velocity;
  violations["stale"] = counts.stale;
  py::dict histograms;
  histograms["tick"] = to_dict(loop.tick_times());
  histograms["jitter"] = to_dict(loop.jitter());
  if (loop.inference_times() != nullptr) {
    histograms.attr("update")(to_dict(*loop.inference_times()));
  }
  py::dict result;
  result["ticks"] = counts.ticks;
  result["deadline_misses"] = counts.deadline_misses;
  result["held_ticks"] = counts.held_ticks;
  result["chunks"] = counts.chunks;
  result["violations"] = violations;
  result["histograms"] = histograms;
  result["rtc"] = rtc_of(counts);
  return result;
}

}  // namespace

void bind_control_loop(py::module_& module) {
  py::class_<ActionDecoder>(module, "ActionDecoder",
                            "normalised * scale + offset + relative_mask * observed state; 0 or 1 "
                            "where an action is binary.")
      .def(py::init(&make_decoder), py::kw_only(), py::arg("scale"), py::arg("offset"),
           py::arg("relative_mask"), py::arg("binary_mask") = py::none())
      .def("decode", &decode, py::arg("normalised"), py::arg("state"))
      .def("encode", &encode, py::arg("actions"), py::arg("network_dim"), py::arg("state"));
  using Unlocked = py::call_guard<py::gil_scoped_release>;
  py::class_<ControlLoop, LoopHolder>(module, "ControlLoop",
                                      "Ticks of simulated time; used by one thread at a time.")
      .def(py::init(&make_loop), py::kw_only(), py::arg("policy").none(true), py::arg("decoder"),
           py::arg("limits"), py::arg("control_hz"), py::arg("execution_horizon"), py::arg("mode"),
           py::arg("inference_delay") = 0, py::arg("stale_after_s") = 1.0, py::arg("speed") = 1.0,
           py::arg("continuation") = ContinuationSettings{}, py::arg("closes_below") = py::tuple(),
           py::arg("closed_command") = py::tuple())
      .def(
          "start",
          [](ControlLoop& loop, const py::handle& command) {
            loop.start(span_of(require_row(loop, command, "command")));
          },
          py::arg("command"))
      .def("needs_observation", &ControlLoop::needs_observation, Unlocked())
      .def("submit", &submit, py::arg("inputs"), py::arg("state"), py::arg("noise"))
      .def("submit_chunk", &submit_chunk, py::arg("actions"))
      .def("tick", &tick)
      .def("asked",
           [](const ControlLoop& loop) {
             return FloatArray(static_cast<py::ssize_t>(loop.asked().size()), loop.asked().data());
           })
      .def("stats", &stats)
      .def("stop", &ControlLoop::stop, Unlocked());
}

}  // namespace flux::bindings
