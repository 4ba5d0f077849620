// What a control core records, as numpy arrays and plain data.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include "flux/control_core.hpp"
#include "flux/tick_record.hpp"

namespace flux::bindings {

namespace py = pybind11;

py::dtype tick_dtype(const TickLayout& layout);
py::array drain_ticks(ControlCore& core);
py::list drain_events(ControlCore& core);
// What a session began with as plain data, and the start that this data is of.
py::dict start_data(const SessionStart& start);
SessionStart start_of(const py::dict& data);

}  // namespace flux::bindings
