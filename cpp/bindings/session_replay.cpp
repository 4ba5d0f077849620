#include "flux/session_replay.hpp"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cstddef>
#include <memory>
#include <span>
#include <stdexcept>
#include <utility>

#include "arrays.hpp"
#include "chunk_inference.hpp"
#include "flux/faults.hpp"
#include "flux/tensor.hpp"
#include "module.hpp"
#include "tick_records.hpp"

namespace flux::bindings {
namespace {

void start(SessionReplay& replay, const py::dict& data) {
  const Cause cause = replay.start(start_of(data));
  if (cause.fault != Fault::kNone) throw std::invalid_argument("start: " + describe(cause));
}

std::size_t run(SessionReplay& replay, const py::array& ticks) {
  const py::dtype expected = tick_dtype(replay.layout());
  if (!ticks.dtype().equal(expected) || ticks.ndim() != 1) {
    throw std::invalid_argument(expected_got(
        "ticks", py::str(expected).cast<std::string>() + " (T,)", describe_array(ticks)));
  }
  const auto records = py::array::ensure(ticks, py::array::c_style);
  const auto* bytes = static_cast<const std::byte*>(records.data());
  const std::span<const std::byte> memory(bytes, static_cast<std::size_t>(records.nbytes()));
  const py::gil_scoped_release release;
  return replay.run(memory);
}

}  // namespace

void bind_session_replay(py::module_& module) {
  py::class_<SessionReplay>(module, "SessionReplay",
                            "Runs a recorded session of the control thread again.")
      .def(py::init([](const RealtimeSettings& settings, std::shared_ptr<Policy> policy,
                       const ActionDecoder& decoder, const SafetyLimits& limits,
                       std::size_t state_dim, std::size_t num_cameras) {
             return std::make_unique<SessionReplay>(settings, std::move(policy), decoder, limits,
                                                    state_dim, num_cameras);
           }),
           py::kw_only(), py::arg("settings"), py::arg("policy").none(true), py::arg("decoder"),
           py::arg("limits"), py::arg("state_dim"), py::arg("num_cameras"))
      .def_property_readonly(
          "tick_dtype", [](const SessionReplay& replay) { return tick_dtype(replay.layout()); })
      .def(
          "add_request",
          [](SessionReplay& replay, const py::dict& data) { replay.add_request(request_of(data)); },
          py::arg("data"))
      .def("start", &start, py::arg("data"))
      .def("run", &run, py::arg("ticks"))
      .def_property_readonly("waits_for_chunk", &SessionReplay::waits_for_chunk)
      .def_property_readonly("recorded_ticket", &SessionReplay::recorded_ticket)
      .def_property_readonly("has_ended", &SessionReplay::has_ended)
      .def(
          "infer",
          [](SessionReplay& replay, const py::dict& inputs, const py::handle& state,
             const py::handle& noise, std::int64_t observed_ns) {
            return infer(replay.inference(), replay.request(), inputs, state, noise, observed_ns);
          },
          py::arg("inputs"), py::arg("state"), py::arg("noise"), py::arg("observed_ns"))
      .def("inferred_actions",
           [](SessionReplay& replay) { return inferred_actions(*replay.inference()); })
      .def(
          "submit_chunk",
          [](SessionReplay& replay, const py::array& actions, std::int64_t observed_ns) {
            return submit_chunk(*replay.inference(), replay.request(), actions, observed_ns);
          },
          py::arg("actions"), py::arg("observed_ns"))
      .def("drain_ticks", [](SessionReplay& replay) { return drain_ticks(replay.core()); })
      .def("drain_events", [](SessionReplay& replay) { return drain_events(replay.core()); });
}

}  // namespace flux::bindings
