// How chunks follow each other, for both loops.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "flux/mode.hpp"

namespace flux::bindings {

// Throws ValueError for a name that is not a mode's.
Mode mode_named(const std::string& name);

void bind_chunking(pybind11::module_& module);

}  // namespace flux::bindings
