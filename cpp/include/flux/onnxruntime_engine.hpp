// Runs ONNX graphs with an ONNX Runtime library that is loaded at run time.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "flux/cuda_abi.hpp"
#include "flux/engine.hpp"
#include "flux/ort_abi.hpp"

namespace flux {

// A loaded libonnxruntime and its environment; engines share one. The library stays loaded until
// the process ends, because its threads may outlive any owner.
class OrtRuntime {
 public:
  // Throws EngineUnavailable if `library` (a path) cannot be loaded, is not ONNX Runtime or is too
  // old.
  explicit OrtRuntime(const std::string& library);
  OrtRuntime(const OrtRuntime&) = delete;
  OrtRuntime& operator=(const OrtRuntime&) = delete;
  ~OrtRuntime();

  [[nodiscard]] const ort::Calls& calls() const noexcept { return calls_; }
  [[nodiscard]] const ort::Env* env() const noexcept { return env_; }
  [[nodiscard]] const std::string& version() const noexcept { return version_; }

  // Frees `status` and throws std::runtime_error("what: message") unless it is null.
  void check(ort::Status* status, const std::string& what) const;

 private:
  OrtRuntime(const ort::ApiBase& base, const std::string& library);

  ort::Calls calls_;
  std::string version_;
  ort::Env* env_ = nullptr;
};

// What runs the graph: the CPU, or an NVIDIA GPU with CUDA's or TensorRT's kernels.
enum class OrtProvider { kCpu, kCuda, kTensorRt };

struct OrtEngineOptions {
  using Values = std::map<std::string, std::string>;

  OrtProvider provider = OrtProvider::kCpu;
  int num_threads = 1;  // CPU threads
  // Names and values as documented by ONNX Runtime for the provider; must be empty for kCpu.
  Values provider_options = {};
  // The same for CUDA's provider, which runs what TensorRT declines; only for kTensorRt.
  Values cuda_options = {};
  std::string driver = "libcuda.so.1";  // NVIDIA's driver; not loaded for kCpu
};

// One ONNX file. External weights are loaded from the same folder. The whole graph runs on the
// requested device; a graph that would run partly on the CPU is refused.
class OrtEngine final : public Engine {
 public:
  // Throws EngineUnavailable if the runtime or this machine has no such provider,
  // std::runtime_error if the runtime refuses the model, std::invalid_argument if an input or
  // output is not a tensor with a static shape and a supported type, or if an option is out of
  // range.
  OrtEngine(std::shared_ptr<const OrtRuntime> runtime, const std::string& path,
            const OrtEngineOptions& options);
  ~OrtEngine() override;

  [[nodiscard]] std::span<const TensorInfo> inputs() const noexcept override { return inputs_; }
  [[nodiscard]] std::span<const TensorInfo> outputs() const noexcept override { return outputs_; }
  [[nodiscard]] TensorMemory allocate(std::size_t num_bytes) override;
  [[nodiscard]] std::size_t bind(std::span<const BoundBuffer> buffers) override;
  void upload(std::size_t binding) override;
  void run(std::size_t binding) override;

 private:
  class Binding;
  class DeviceMemory;

  std::shared_ptr<const OrtRuntime> runtime_;
  std::string path_;
  std::unique_ptr<ort::Session, void (*)(ort::Session*)> session_;
  std::unique_ptr<DeviceMemory> device_memory_;         // null on the CPU
  std::unique_ptr<cuda::HostToDevice> host_to_device_;  // null on the CPU
  std::vector<TensorInfo> inputs_;
  std::vector<TensorInfo> outputs_;
  std::vector<std::unique_ptr<Binding>> bindings_;
};

}  // namespace flux
