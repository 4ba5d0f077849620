#include "flux/cuda_player.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "flux/captured_policy.hpp"
#include "flux/compact_inputs.hpp"
#include "module.hpp"

namespace flux::bindings {
namespace {

namespace py = pybind11;

// (name, symbol, cubin, threads of a program, dynamic shared bytes, ((offset, size) of a
// parameter)).
using KernelTuple = std::tuple<std::string, std::string, py::bytes, unsigned, std::size_t,
                               std::vector<std::pair<std::size_t, std::size_t>>>;
// (name, bytes, role).
using BufferTuple = std::tuple<std::string, std::size_t, std::string>;
// (number of a buffer, offset in bytes), or a number.
using ArgumentValue = std::variant<std::pair<std::size_t, std::size_t>, std::int64_t, double>;
// (stage, number of a kernel, grid, arguments).
using LaunchTuple =
    std::tuple<std::string, std::size_t, std::array<unsigned, 3>, std::vector<ArgumentValue>>;

cuda::BufferRole role_named(const std::string& role, const std::string& buffer) {
  if (role == "input") return cuda::BufferRole::kInput;
  if (role == "constant") return cuda::BufferRole::kConstant;
  if (role == "work") return cuda::BufferRole::kWork;
  if (role == "output") return cuda::BufferRole::kOutput;
  throw std::invalid_argument(
      expected_got(buffer, "'input', 'constant', 'work' or 'output'", "'" + role + "'"));
}

cuda::LaunchArgument argument_of(const ArgumentValue& value, const std::string& kernel) {
  if (const auto* place = std::get_if<0>(&value)) {
    return cuda::BufferAddress{.buffer = place->first, .offset = place->second};
  }
  if (const auto* number = std::get_if<2>(&value)) return static_cast<float>(*number);
  const std::int64_t number = std::get<1>(value);
  if (number < std::numeric_limits<std::int32_t>::min() ||
      number > std::numeric_limits<std::int32_t>::max()) {
    throw std::invalid_argument(
        expected_got("argument of " + kernel, "an int32", std::to_string(number)));
  }
  return static_cast<std::int32_t>(number);
}

// A plan on the card, and the graphs that are captured so far.
class CudaPlayer {
 public:
  CudaPlayer(const std::string& library, const std::string& architecture,
             const std::vector<KernelTuple>& kernels, const std::vector<BufferTuple>& buffers) {
    cuda::PlayerSettings settings{.library = library, .architecture = architecture};
    for (const auto& [name, symbol, cubin, num_threads, shared_bytes, parameters] : kernels) {
      const std::string_view bytes(cubin);
      cuda::Kernel kernel{.name = name,
                          .symbol = symbol,
                          .cubin = std::as_bytes(std::span(bytes.data(), bytes.size())),
                          .num_threads = num_threads,
                          .shared_bytes = shared_bytes};
      for (const auto& [offset, size] : parameters) kernel.parameters.push_back({offset, size});
      settings.kernels.push_back(std::move(kernel));
    }
    for (const auto& [name, num_bytes, role] : buffers) {
      settings.buffers.push_back({name, num_bytes, role_named(role, name)});
    }
    const py::gil_scoped_release release;
    player_ = std::make_shared<cuda::Player>(std::move(settings));
  }

  void upload(const std::string& name, const py::buffer& content) {
    const py::buffer_info info = content.request();
    if (!PyBuffer_IsContiguous(info.view(), 'C')) {
      throw std::invalid_argument(expected_got(name, "a contiguous array", "another one"));
    }
    const std::span bytes(static_cast<const std::byte*>(info.ptr),
                          static_cast<std::size_t>(info.size * info.itemsize));
    const py::gil_scoped_release release;
    player_->upload(name, bytes);
  }

  void capture(int num_cameras, int num_tokens, const std::vector<LaunchTuple>& launches,
               std::size_t num_input_bytes) {
    std::vector<cuda::PlanLaunch> planned;
    planned.reserve(launches.size());
    for (const auto& [stage, kernel, grid, arguments] : launches) {
      cuda::PlanLaunch launch{.stage = stage, .kernel = kernel, .grid = grid};
      for (const ArgumentValue& value : arguments) {
        launch.arguments.push_back(argument_of(value, stage));
      }
      planned.push_back(std::move(launch));
    }
    const std::string name =
        std::to_string(num_cameras) + " cameras, " + std::to_string(num_tokens) + " tokens";
    const py::gil_scoped_release release;
    variants_.push_back({.num_cameras = num_cameras,
                         .num_tokens = num_tokens,
                         .exec = player_->capture(name, planned, num_input_bytes)});
  }

  std::shared_ptr<CapturedPolicy> policy(const InputShapes& inputs,
                                         std::pair<int, int> action_shape,
                                         std::int64_t vocabulary_size) {
    const auto [action_horizon, action_dim] = action_shape;
    const std::span<const std::byte> output = player_->output();
    const auto num_bytes = static_cast<std::int64_t>(sizeof(float)) * action_horizon * action_dim;
    if (action_horizon < 1 || action_dim < 1 ||
        num_bytes != static_cast<std::int64_t>(output.size()) ||
        output.size() != player_->input("noise").size()) {
      throw std::invalid_argument(expected_got("noise and output of the plan",
                                               std::to_string(num_bytes) + " bytes",
                                               std::to_string(output.size())));
    }
    const InputBlock block{.images = player_->input("images"),
                           .cameras = player_->input("cameras"),
                           .tokens = player_->input("tokens"),
                           .num_tokens = player_->input("num_tokens"),
                           .state = player_->input("state"),
                           .noise = player_->input("noise"),
                           .known = player_->input("known"),
                           .num_known = player_->input("num_known")};
    return std::make_shared<CapturedPolicy>(
        CapturedGraphs{.driver = player_->library(),
                       .context = player_->context(),
                       .stream = player_->stream(),
                       .inputs = std::make_unique<CompactInputs>(
                           tensor_infos(inputs), block, variants_, vocabulary_size, action_dim),
                       .actions = reinterpret_cast<const float*>(output.data()),
                       .action_horizon = action_horizon,
                       .action_dim = action_dim,
                       .owner = player_});
  }

  [[nodiscard]] const cuda::Player& player() const { return *player_; }

 private:
  std::shared_ptr<cuda::Player> player_;
  std::vector<PlanVariant> variants_;
};

}  // namespace

void bind_cuda_player(py::module_& module) {
  py::class_<CudaPlayer>(module, "CudaPlayer", "A launch plan on an NVIDIA card.")
      .def(py::init<const std::string&, const std::string&, const std::vector<KernelTuple>&,
                    const std::vector<BufferTuple>&>(),
           py::kw_only(), py::arg("library"), py::arg("architecture"), py::arg("kernels"),
           py::arg("buffers"))
      .def("upload", &CudaPlayer::upload, py::arg("name"), py::arg("content"))
      .def("capture", &CudaPlayer::capture, py::arg("num_cameras"), py::arg("num_tokens"),
           py::arg("launches"), py::kw_only(), py::arg("num_input_bytes"))
      .def("policy", &CudaPlayer::policy, py::arg("inputs"), py::kw_only(), py::arg("action_shape"),
           py::arg("vocabulary_size"))
      .def("input_offset", [](const CudaPlayer& self,
                              const std::string& name) { return self.player().input_offset(name); })
      .def_property_readonly("card", [](const CudaPlayer& self) { return self.player().card(); })
      .def_property_readonly("num_device_bytes", [](const CudaPlayer& self) {
        return self.player().num_device_bytes();
      });
}

}  // namespace flux::bindings
