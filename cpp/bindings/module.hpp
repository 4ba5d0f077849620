#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "flux/policy.hpp"

namespace flux::bindings {

void bind_chunk_player(pybind11::module_& module);
void bind_cuda_player(pybind11::module_& module);
void bind_policies(pybind11::module_& module);
void bind_safety_filter(pybind11::module_& module);
void bind_control_loop(pybind11::module_& module);
void bind_robot_link(pybind11::module_& module);
void bind_realtime_loop(pybind11::module_& module);
void bind_session_replay(pybind11::module_& module);

// Name -> (numpy's type name, shape).
using InputShapes = std::map<std::string, std::pair<std::string, std::vector<std::int64_t>>>;

// Throws ValueError for a type that no input has.
std::vector<TensorInfo> tensor_infos(const InputShapes& inputs);

// Returns `noise` if it is float32 with the policy's shape (H, A) or (1, H, A); throws ValueError
// otherwise.
FloatArray require_noise(const Policy& policy, const pybind11::handle& noise);

}  // namespace flux::bindings
