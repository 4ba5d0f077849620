#include "flux/robot_link.hpp"

#include <pybind11/stl.h>

#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "flux/clock.hpp"
#include "flux/shared_memory_link.hpp"
#include "module.hpp"

namespace flux::bindings {
namespace {

constexpr std::pair<const char*, LinkPhase> kLinkPhases[] = {{"idle", LinkPhase::kIdle},
                                                             {"running", LinkPhase::kRunning},
                                                             {"stopped", LinkPhase::kStopped},
                                                             {"closed", LinkPhase::kClosed}};

LinkPhase require_phase(const std::string& name) {
  for (const auto& [known, phase] : kLinkPhases) {
    if (name == known) return phase;
  }
  throw std::invalid_argument(
      expected_got("phase", "'idle', 'running', 'stopped' or 'closed'", "'" + name + "'"));
}

StopCategory require_category(int category) {
  if (category < 0 || category > 2) {
    throw std::invalid_argument(expected_got("category", "0, 1 or 2", std::to_string(category)));
  }
  return static_cast<StopCategory>(category);
}

std::uint64_t require_session(std::uint64_t session) {
  if (session < kMaxSession) return session;
  throw std::invalid_argument(expected_got(
      "session", "a number below " + std::to_string(kMaxSession), std::to_string(session)));
}

const char* name_of(DriverPhase phase) {
  switch (phase) {
    case DriverPhase::kConnecting:
      return "connecting";
    case DriverPhase::kReady:
      return "ready";
    case DriverPhase::kStopped:
      return "stopped";
    case DriverPhase::kFailed:
      return "failed";
    case DriverPhase::kClosed:
      return "closed";
  }
  return "unknown";
}

std::size_t require_camera(const RobotLink& link, std::size_t camera) {
  if (camera < link.num_cameras()) return camera;
  throw std::invalid_argument(expected_got(
      "camera", "an index below " + std::to_string(link.num_cameras()), std::to_string(camera)));
}

py::tuple read_state(RobotLink& link) {
  FloatArray state(static_cast<py::ssize_t>(link.state_dim()));
  const StateSample sample =
      link.read_state({state.mutable_data(), static_cast<std::size_t>(state.size())});
  return py::make_tuple(state, sample.captured_ns, sample.count);
}

py::dict status(const RobotLink& link) {
  const LinkStatus status = link.status();
  py::dict result;
  result["phase"] = name_of(status.phase);
  result["acknowledged"] = status.acknowledged;
  result["session"] = status.session;
  result["heartbeat_ns"] = status.heartbeat_ns;
  result["dropped_old"] = status.dropped_old;
  result["refused_steps"] = status.refused_steps;
  result["progress"] = status.progress;
  result["is_alive"] = status.is_alive;
  return result;
}

std::int64_t send(RobotLink& link, const py::handle& command, std::uint64_t sequence,
                  std::uint64_t session, std::int64_t tick_ns, std::int64_t observed_ns,
                  std::uint32_t flags) {
  const FloatArray values =
      require_floats(command, "command", {{static_cast<std::int64_t>(link.action_dim())}});
  return link.send(span_of(values), {.sequence = sequence,
                                     .session = require_session(session),
                                     .tick_ns = tick_ns,
                                     .observed_ns = observed_ns,
                                     .flags = flags});
}

std::shared_ptr<SharedMemoryLink> make_link(
    std::size_t action_dim, std::size_t state_dim,
    const std::vector<std::pair<std::uint32_t, std::uint32_t>>& cameras, double control_hz,
    std::vector<double> max_step) {
  SharedMemoryLinkConfig config{.action_dim = action_dim,
                                .state_dim = state_dim,
                                .images = {},
                                .control_hz = control_hz,
                                .max_step = std::move(max_step)};
  for (const auto& [height, width] : cameras) config.images.push_back({height, width});
  return std::make_shared<SharedMemoryLink>(config);
}

py::dict shared_status(const SharedMemoryLink& link) {
  py::dict result = status(link);
  const RefusedCommands refused = link.refused();
  result["refused_not_finite"] = refused.not_finite;
  result["refused_sessions"] = refused.other_session;
  result["overwritten"] = refused.overwritten;
  return result;
}

// Returns (image, captured_ns), the image copied without the GIL, or None.
py::object observe_frame(SharedMemoryLink& link, std::size_t camera) {
  const FrameView frame = link.observe_frame(camera);
  if (frame.pixels.empty()) return py::none();
  const ImageSize size = link.image_size(camera);
  py::array_t<std::uint8_t> image(
      {py::ssize_t{size.height}, py::ssize_t{size.width}, py::ssize_t{3}});
  std::uint8_t* pixels = image.mutable_data();
  {
    const py::gil_scoped_release release;
    std::memcpy(pixels, frame.pixels.data(), frame.pixels.size());
  }
  return py::make_tuple(image, frame.captured_ns);
}

py::tuple observe(SharedMemoryLink& link, const std::vector<std::size_t>& cameras) {
  py::dict frames;
  for (const std::size_t camera : cameras) {
    const py::object frame = observe_frame(link, require_camera(link, camera));
    if (!frame.is_none()) frames[py::int_(camera)] = frame;
  }
  FloatArray state(static_cast<py::ssize_t>(link.state_dim()));
  const StateSample sample =
      link.observe_state({state.mutable_data(), static_cast<std::size_t>(state.size())});
  return py::make_tuple(state, sample.captured_ns, frames);
}

}  // namespace

void bind_robot_link(py::module_& module) {
  py::class_<RobotLink, std::shared_ptr<RobotLink>>(
      module, "RobotLink", "What the control thread sees of a robot; used by one thread.")
      .def_property_readonly("action_dim", &RobotLink::action_dim)
      .def_property_readonly("state_dim", &RobotLink::state_dim)
      .def_property_readonly("num_cameras", &RobotLink::num_cameras)
      .def("read_state", &read_state)
      .def(
          "frame_captured_ns",
          [](const RobotLink& link, std::size_t camera) {
            return link.frame_captured_ns(require_camera(link, camera));
          },
          py::arg("camera"))
      .def("status", &status)
      .def("send", &send, py::arg("command"), py::kw_only(), py::arg("sequence"),
           py::arg("session"), py::arg("tick_ns"), py::arg("observed_ns"), py::arg("flags") = 0)
      .def("beat", [](RobotLink& link) { link.beat(MonotonicClock().now_ns()); })
      .def(
          "announce",
          [](RobotLink& link, const std::string& phase, std::uint64_t session, int category) {
            link.announce(require_phase(phase), require_category(category),
                          require_session(session));
          },
          py::arg("phase"), py::kw_only(), py::arg("session"), py::arg("category") = 2);
  py::class_<SharedMemoryLink, RobotLink, std::shared_ptr<SharedMemoryLink>>(
      module, "SharedMemoryLink", "The policy's end of the memory shared with a driver's process.")
      .def(py::init(&make_link), py::kw_only(), py::arg("action_dim"), py::arg("state_dim"),
           py::arg("cameras"), py::arg("control_hz"), py::arg("max_step"))
      .def("fd", &SharedMemoryLink::fd)
      .def("status", &shared_status)
      .def("observe", &observe, py::arg("cameras"))
      .def("set_dead", &SharedMemoryLink::set_dead);
}

}  // namespace flux::bindings
