#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "arrays.hpp"
#include "callback_policy.hpp"
#include "flux/captured_policy.hpp"
#include "flux/flow_policy.hpp"
#include "flux/onnxruntime_engine.hpp"
#include "flux/openvino_engine.hpp"
#include "histograms.hpp"
#include "locked.hpp"
#include "module.hpp"

namespace flux::bindings {
namespace {

using Options = std::map<std::string, std::string>;
using MakeEngine = std::function<std::unique_ptr<Engine>(const std::string& path)>;

std::optional<OrtProvider> provider_of(const std::string& engine) {
  if (engine == "onnxruntime") return OrtProvider::kCpu;
  if (engine == "onnxruntime-cuda") return OrtProvider::kCuda;
  if (engine == "onnxruntime-tensorrt") return OrtProvider::kTensorRt;
  return std::nullopt;
}

MakeEngine engine_maker(const std::string& engine, const std::string& library, int num_threads,
                        const Options& options, const Options& cuda_options) {
  if (engine == "openvino") {
    const auto runtime = std::make_shared<const OpenVinoRuntime>(library, num_threads, options);
    return [=](const std::string& path) { return std::make_unique<OpenVinoEngine>(runtime, path); };
  }
  const std::optional<OrtProvider> provider = provider_of(engine);
  if (!provider) {
    throw std::invalid_argument(expected_got(
        "engine", "'onnxruntime', 'onnxruntime-cuda', 'onnxruntime-tensorrt' or 'openvino'",
        "'" + engine + "'"));
  }
  const auto runtime = std::make_shared<const OrtRuntime>(library);
  const OrtEngineOptions engine_options{.provider = *provider,
                                        .num_threads = num_threads,
                                        .provider_options = options,
                                        .cuda_options = cuda_options};
  return [=](const std::string& path) {
    return std::make_unique<OrtEngine>(runtime, path, engine_options);
  };
}

std::shared_ptr<FlowPolicy> open_policy(const std::string& prefix_path,
                                        const std::string& denoise_path, const std::string& engine,
                                        const std::string& library, int num_inference_steps,
                                        int num_threads, const Options& options,
                                        const Options& cuda_options) {
  const py::gil_scoped_release release;
  const MakeEngine make = engine_maker(engine, library, num_threads, options, cuda_options);
  return std::make_shared<FlowPolicy>(make(prefix_path), make(denoise_path), num_inference_steps);
}

// Name -> (numpy's type name, shape, address).
using HostInputs =
    std::map<std::string, std::tuple<std::string, std::vector<std::int64_t>, std::uintptr_t>>;

DType dtype_named(const std::string& name, const std::string& input) {
  for (const DType dtype :
       {DType::kFloat32, DType::kInt32, DType::kInt64, DType::kUint8, DType::kBool}) {
    if (dtype_name(dtype) == name) return dtype;
  }
  throw std::invalid_argument(expected_got(input, "float32, int32, int64, uint8 or bool", name));
}

template <typename T>
T* pointer(std::uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

std::shared_ptr<CapturedPolicy> open_captured(const std::string& driver, std::uintptr_t context,
                                              std::uintptr_t stream, std::uintptr_t graph,
                                              const HostInputs& inputs, std::uintptr_t noise,
                                              std::uintptr_t actions,
                                              std::pair<int, int> action_shape, py::object owner) {
  CapturedGraph captured{.driver = driver,
                         .context = pointer<cuda::Context>(context),
                         .stream = pointer<cuda::Stream>(stream),
                         .exec = pointer<cuda::GraphExec>(graph),
                         .noise = pointer<float>(noise),
                         .actions = pointer<const float>(actions),
                         .action_horizon = action_shape.first,
                         .action_dim = action_shape.second,
                         .owner = keep_alive(std::move(owner))};
  for (const auto& [name, input] : inputs) {
    const auto& [dtype, shape, address] = input;
    captured.inputs.push_back(
        {.info = {.name = name, .dtype = dtype_named(dtype, name), .shape = shape},
         .host = pointer<void>(address)});
  }
  return std::make_shared<CapturedPolicy>(std::move(captured));
}

std::shared_ptr<CallbackPolicy> make_callback(py::object call, const InputShapes& inputs,
                                              std::pair<int, int> action_shape, bool can_continue) {
  return std::make_shared<CallbackPolicy>(std::move(call), tensor_infos(inputs), action_shape.first,
                                          action_shape.second, can_continue);
}

py::dict inputs_of(const Policy& policy) {
  py::dict inputs;
  for (const TensorInfo& info : policy.user_inputs()) {
    inputs[py::str(info.name)] =
        py::make_tuple(std::string(dtype_name(info.dtype)), py::tuple(py::cast(info.shape)));
  }
  return inputs;
}

// Rows of the network's normalised actions, (K, A).
FloatArray require_rows(const Policy& policy, const py::handle& value) {
  const auto action_dim = static_cast<std::int64_t>(policy.action_dim());
  const std::int64_t rows =
      py::isinstance<py::array>(value) && value.cast<py::array>().ndim() == 2
          ? std::min<std::int64_t>(value.cast<py::array>().shape(0), policy.action_horizon())
          : policy.action_horizon();
  return require_floats(value, "previous", {{rows, action_dim}});
}

FloatArray infer(Policy& policy, const py::dict& inputs, const py::handle& noise,
                 const std::optional<py::array>& previous, int prefix_len,
                 const ContinuationSettings* settings) {
  const NamedArrays named(inputs, policy.user_inputs());
  const FloatArray noise_array = require_noise(policy, noise);
  FloatArray actions({policy.action_horizon(), policy.action_dim()});
  const std::span<float> out{actions.mutable_data(), policy.num_action_values()};
  const std::span<const float> noise_values = span_of(noise_array);
  if (previous.has_value() != (settings != nullptr)) {
    throw std::invalid_argument(
        expected_got("continuation", "settings together with `previous`", "one without the other"));
  }
  FloatArray rows;
  Continuation continuation{.settings = settings, .previous = {}, .prefix_len = prefix_len};
  if (previous.has_value()) {
    check(*settings, policy.action_horizon());
    rows = require_rows(policy, *previous);
    continuation.previous = span_of(rows);
  } else if (prefix_len != 0) {
    throw std::invalid_argument(
        expected_got("prefix_len", "0 without `previous`", std::to_string(prefix_len)));
  }
  {
    const py::gil_scoped_release release;
    policy.infer(named.views(), noise_values, out, nullptr, nullptr,
                 settings == nullptr ? nullptr : &continuation);
  }
  return actions;
}

}  // namespace

std::vector<TensorInfo> tensor_infos(const InputShapes& inputs) {
  std::vector<TensorInfo> infos;
  for (const auto& [name, input] : inputs) {
    infos.push_back({.name = name, .dtype = dtype_named(input.first, name), .shape = input.second});
  }
  return infos;
}

FloatArray require_noise(const Policy& policy, const py::handle& noise) {
  const std::int64_t action_horizon = policy.action_horizon();
  const std::int64_t action_dim = policy.action_dim();
  return require_floats(noise, "noise",
                        {{action_horizon, action_dim}, {1, action_horizon, action_dim}});
}

void bind_policies(py::module_& module) {
  py::register_exception<EngineUnavailable>(module, "EngineUnavailable", PyExc_RuntimeError);
  py::class_<Policy, std::shared_ptr<Policy>>(module, "Policy",
                                              "An observation and noise in, a chunk out.")
      .def_property_readonly("inputs", &inputs_of)
      .def_property_readonly("action_shape",
                             [](const Policy& policy) {
                               return py::make_tuple(policy.action_horizon(), policy.action_dim());
                             })
      .def_property_readonly("can_continue", &Policy::can_continue)
      .def_property_readonly("can_guide", &Policy::can_guide)
      .def("infer", &infer, py::arg("inputs"), py::arg("noise"),
           py::arg("previous").none(true) = py::none(), py::arg("prefix_len") = 0,
           py::arg("continuation").none(true) = py::none())
      .def("histograms", [](const Policy& policy) { return to_dict(policy.histograms()); });
  py::class_<FlowPolicy, Policy, std::shared_ptr<FlowPolicy>>(
      module, "FlowPolicy", "A bundle's two graphs and the loop of Euler steps between them.")
      .def(py::init(&open_policy), py::arg("prefix_path"), py::arg("denoise_path"), py::kw_only(),
           py::arg("engine") = "onnxruntime", py::arg("library"), py::arg("num_inference_steps"),
           py::arg("num_threads") = 1, py::arg("options") = Options{},
           py::arg("cuda_options") = Options{});
  py::class_<CapturedPolicy, Policy, std::shared_ptr<CapturedPolicy>>(
      module, "CapturedPolicy", "A bundle's whole inference as one CUDA graph.")
      .def(py::init(&open_captured), py::kw_only(), py::arg("driver"), py::arg("context"),
           py::arg("stream"), py::arg("graph"), py::arg("inputs"), py::arg("noise"),
           py::arg("actions"), py::arg("action_shape"), py::arg("owner"));
  py::class_<CallbackPolicy, Policy, std::shared_ptr<CallbackPolicy>>(
      module, "CallbackPolicy", "A function that makes chunks.")
      .def(py::init(&make_callback), py::arg("call"), py::kw_only(), py::arg("inputs"),
           py::arg("action_shape"), py::arg("can_continue"));
}

}  // namespace flux::bindings
