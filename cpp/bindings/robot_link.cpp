#include "flux/robot_link.hpp"

#include <memory>

#include "module.hpp"

namespace flux::bindings {

namespace py = pybind11;

void bind_robot_link(py::module_& module) {
  py::class_<RobotLink, std::shared_ptr<RobotLink>>(
      module, "RobotLink", "What the control thread sees of a robot and its driver.");
}

}  // namespace flux::bindings
