#include "flux/flow_policy.hpp"

#include <pybind11/stl.h>

#include <functional>
#include <map>
#include <optional>

#include "arrays.hpp"
#include "flux/onnxruntime_engine.hpp"
#include "flux/openvino_engine.hpp"
#include "histograms.hpp"
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
                        const Options& options) {
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
  const OrtEngineOptions engine_options{
      .provider = *provider, .num_threads = num_threads, .provider_options = options};
  return [=](const std::string& path) {
    return std::make_unique<OrtEngine>(runtime, path, engine_options);
  };
}

std::shared_ptr<FlowPolicy> open_policy(const std::string& prefix_path,
                                        const std::string& denoise_path,
                                        const std::string& engine, const std::string& library,
                                        int num_inference_steps, int num_threads,
                                        const Options& options) {
  const py::gil_scoped_release release;
  const MakeEngine make = engine_maker(engine, library, num_threads, options);
  return std::make_shared<FlowPolicy>(make(prefix_path), make(denoise_path), num_inference_steps);
}

py::dict inputs_of(const FlowPolicy& policy) {
  py::dict inputs;
  for (const TensorInfo& info : policy.user_inputs()) {
    inputs[py::str(info.name)] =
        py::make_tuple(std::string(dtype_name(info.dtype)), py::tuple(py::cast(info.shape)));
  }
  return inputs;
}

FloatArray infer(FlowPolicy& policy, const py::dict& inputs, const py::handle& noise) {
  const NamedArrays named(inputs, policy.user_inputs());
  const FloatArray noise_array = require_noise(policy, noise);
  FloatArray actions({policy.action_horizon(), policy.action_dim()});
  const std::span<float> out{actions.mutable_data(), policy.num_action_values()};
  const std::span<const float> noise_values = span_of(noise_array);
  {
    const py::gil_scoped_release release;
    policy.infer(named.views(), noise_values, out);
  }
  return actions;
}

}  // namespace

FloatArray require_noise(const FlowPolicy& policy, const py::handle& noise) {
  const std::int64_t horizon = policy.action_horizon();
  const std::int64_t dim = policy.action_dim();
  return require_floats(noise, "noise", {{horizon, dim}, {1, horizon, dim}});
}

void bind_flow_policy(py::module_& module) {
  py::register_exception<EngineUnavailable>(module, "EngineUnavailable", PyExc_RuntimeError);
  py::class_<FlowPolicy, std::shared_ptr<FlowPolicy>>(
      module, "FlowPolicy", "A bundle's two graphs and the loop of Euler steps between them.")
      .def(py::init(&open_policy), py::arg("prefix_path"), py::arg("denoise_path"), py::kw_only(),
           py::arg("engine") = "onnxruntime", py::arg("library"), py::arg("num_inference_steps"),
           py::arg("num_threads") = 1, py::arg("options") = Options{})
      .def_property_readonly("inputs", &inputs_of)
      .def_property_readonly(
          "action_shape",
          [](const FlowPolicy& policy) {
            return py::make_tuple(policy.action_horizon(), policy.action_dim());
          })
      .def("infer", &infer, py::arg("inputs"), py::arg("noise"))
      .def("histograms", [](const FlowPolicy& policy) { return to_dict(policy.histograms()); });
}

}  // namespace flux::bindings
