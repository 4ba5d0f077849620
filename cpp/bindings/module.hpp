#pragma once

#include <pybind11/pybind11.h>

#include "arrays.hpp"
#include "flux/policy.hpp"

namespace flux::bindings {

void bind_policies(pybind11::module_& module);
void bind_control_loop(pybind11::module_& module);

// float32 (H, A) or (1, H, A) of the policy; throws ValueError otherwise.
FloatArray require_noise(const Policy& policy, const pybind11::handle& noise);

}  // namespace flux::bindings
