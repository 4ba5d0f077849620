#include "module.hpp"

#include "chunking.hpp"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core: flow-matching inference and the control loop.";
  flux::bindings::bind_chunking(module);
  flux::bindings::bind_chunk_player(module);
  flux::bindings::bind_policies(module);
  flux::bindings::bind_cuda_player(module);
  flux::bindings::bind_safety_filter(module);
  flux::bindings::bind_control_loop(module);
  flux::bindings::bind_robot_link(module);
  flux::bindings::bind_realtime_loop(module);
  flux::bindings::bind_session_replay(module);
}
