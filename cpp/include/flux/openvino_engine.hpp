// Runs ONNX graphs on the CPU with an OpenVINO library that is loaded at run time.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flux/engine.hpp"
#include "flux/openvino_abi.hpp"

namespace flux {

// A loaded libopenvino_c with the settings of its CPU device; engines share one. The library stays
// loaded until the process ends, because its threads may outlive any owner.
class OpenVinoRuntime {
 public:
  // `properties` are names and values as documented by OpenVINO for the CPU device; OpenVINO checks
  // them when the first model is compiled. Computes in float32 unless a property says otherwise.
  // Throws EngineUnavailable if `library` (a path) cannot be loaded, is not OpenVINO or is too old;
  // std::invalid_argument if num_threads < 1.
  OpenVinoRuntime(const std::string& library, int num_threads,
                  const std::map<std::string, std::string>& properties);
  OpenVinoRuntime(const OpenVinoRuntime&) = delete;
  OpenVinoRuntime& operator=(const OpenVinoRuntime&) = delete;
  ~OpenVinoRuntime();

  [[nodiscard]] const openvino::Calls& calls() const noexcept { return calls_; }
  [[nodiscard]] const openvino::Core* core() const noexcept { return core_; }

  // Throws EngineUnavailable unless `model` was compiled with all requested properties. OpenVINO
  // falls back to float32 on a CPU without bfloat16, and only the compiled model's properties show
  // it.
  void require_properties(const openvino::CompiledModel* model) const;

  // Throws std::runtime_error("what: message") unless `status` is success.
  void check(openvino::Status status, const std::string& what) const;

 private:
  void require_known_elements(const std::string& library) const;
  void set_property(const std::string& name, const std::string& value);

  openvino::Calls calls_;
  std::map<std::string, std::string> properties_;
  openvino::Core* core_ = nullptr;
};

// One ONNX file. External weights are loaded from the same folder.
class OpenVinoEngine final : public Engine {
 public:
  // Throws EngineUnavailable if OpenVINO does not apply the runtime's properties,
  // std::runtime_error if it refuses the model, std::invalid_argument if an input or output has an
  // unsupported type.
  OpenVinoEngine(std::shared_ptr<const OpenVinoRuntime> runtime, const std::string& path);
  ~OpenVinoEngine() override;

  [[nodiscard]] std::span<const TensorInfo> inputs() const noexcept override { return inputs_; }
  [[nodiscard]] std::span<const TensorInfo> outputs() const noexcept override { return outputs_; }
  [[nodiscard]] std::size_t bind(std::span<const BoundBuffer> buffers) override;
  void run(std::size_t binding) override;

 private:
  class Binding;

  std::shared_ptr<const OpenVinoRuntime> runtime_;
  std::string path_;
  std::unique_ptr<openvino::CompiledModel, void (*)(openvino::CompiledModel*)> model_;
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::vector<std::unique_ptr<Binding>> bindings_;
};

}  // namespace flux
