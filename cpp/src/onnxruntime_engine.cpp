#include "flux/onnxruntime_engine.hpp"

#include <utility>

#include "ort_session.hpp"

namespace flux {

// Accelerator memory from the session's own allocator.
class OrtEngine::DeviceMemory {
 public:
  DeviceMemory(const OrtRuntime& runtime, const ort::Session* session, const std::string& path)
      : runtime_(runtime), path_(path), allocator_(nullptr, runtime.calls().ReleaseAllocator) {
    const ort::Owner<ort::MemoryInfo> info = ort::make_memory_info(runtime, true, path);
    ort::Allocator* raw = nullptr;
    runtime.check(runtime.calls().CreateAllocator(session, info.get(), &raw), path);
    allocator_.reset(raw);
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() {
    const ort::Calls& calls = runtime_.calls();
    for (void* memory : allocated_) {
      if (ort::Status* status = calls.AllocatorFree(allocator_.get(), memory)) {
        calls.ReleaseStatus(status);
      }
    }
  }

  void* allocate(std::size_t num_bytes) {
    allocated_.push_back(nullptr);
    runtime_.check(runtime_.calls().AllocatorAlloc(allocator_.get(), num_bytes, &allocated_.back()),
                   path_);
    return allocated_.back();
  }

 private:
  const OrtRuntime& runtime_;
  const std::string& path_;
  ort::Owner<ort::Allocator> allocator_;
  std::vector<void*> allocated_;
};

// An OrtIoBinding and the values it refers to.
class OrtEngine::Binding {
 public:
  Binding(const OrtRuntime& runtime, ort::Session* session, const std::string& path)
      : runtime_(runtime), path_(path) {
    const ort::Calls& calls = runtime.calls();
    runtime.check(calls.CreateIoBinding(session, &binding_), path);
  }
  Binding(const Binding&) = delete;
  Binding& operator=(const Binding&) = delete;
  ~Binding() {
    const ort::Calls& calls = runtime_.calls();
    calls.ReleaseIoBinding(binding_);
    for (ort::Value* value : values_) calls.ReleaseValue(value);
  }

  void add(const TensorInfo& info, TensorMemory memory, bool is_input) {
    const ort::Calls& calls = runtime_.calls();
    const std::string where = path_ + ": " + info.name;
    const ort::Owner<ort::MemoryInfo> place =
        ort::make_memory_info(runtime_, memory.is_on_device, where);
    values_.push_back(nullptr);
    runtime_.check(calls.CreateTensorWithDataAsOrtValue(
                       place.get(), memory.data, info.num_bytes(), info.shape.data(),
                       info.shape.size(), ort::element_type_of(info.dtype), &values_.back()),
                   where);
    const auto attach = is_input ? calls.BindInput : calls.BindOutput;
    runtime_.check(attach(binding_, info.name.c_str(), values_.back()), where);
  }

  // What `upload` copies.
  std::vector<cuda::HostToDevice::Copy> host_inputs = {};

  [[nodiscard]] const ort::IoBinding* get() const noexcept { return binding_; }

 private:
  const OrtRuntime& runtime_;
  const std::string& path_;
  ort::IoBinding* binding_ = nullptr;
  std::vector<ort::Value*> values_;
};

OrtEngine::OrtEngine(std::shared_ptr<const OrtRuntime> runtime, const std::string& path,
                     const OrtEngineOptions& options)
    : runtime_(std::move(runtime)),
      path_(path),
      session_(nullptr, runtime_->calls().ReleaseSession) {
  const ort::Owner<ort::SessionOptions> session_options =
      ort::make_options(*runtime_, path, options);
  ort::Session* session = nullptr;
  runtime_->check(runtime_->calls().CreateSession(runtime_->env(), path.c_str(),
                                                  session_options.get(), &session),
                  path);
  session_.reset(session);
  if (options.provider != OrtProvider::kCpu) {
    device_memory_ = std::make_unique<DeviceMemory>(*runtime_, session, path_);
    host_to_device_ = std::make_unique<cuda::HostToDevice>(options.driver);
  }
  inputs_ = ort::tensor_infos(*runtime_, session, true, path);
  outputs_ = ort::tensor_infos(*runtime_, session, false, path);
}

OrtEngine::~OrtEngine() = default;

TensorMemory OrtEngine::allocate(std::size_t num_bytes) {
  if (!device_memory_) return Engine::allocate(num_bytes);
  return {.data = device_memory_->allocate(num_bytes), .is_on_device = true};
}

std::size_t OrtEngine::bind(std::span<const BoundBuffer> buffers) {
  const bool has_device = device_memory_ != nullptr;
  auto binding = std::make_unique<Binding>(*runtime_, session_.get(), path_);
  for (const TensorInfo& info : inputs_) {
    TensorMemory memory = require_memory(buffers, info.name, path_, has_device);
    if (has_device && !memory.is_on_device) {
      // ONNX Runtime would allocate a copy on the device each time that a host tensor is bound.
      const TensorMemory copy = allocate(info.num_bytes());
      binding->host_inputs.push_back({copy.data, memory.data, info.num_bytes()});
      memory = copy;
    }
    binding->add(info, memory, true);
  }
  for (const TensorInfo& info : outputs_) {
    binding->add(info, require_memory(buffers, info.name, path_, has_device), false);
  }
  bindings_.push_back(std::move(binding));
  return bindings_.size() - 1;
}

void OrtEngine::upload(std::size_t binding) {
  if (host_to_device_) host_to_device_->run(bindings_[binding]->host_inputs);
}

void OrtEngine::run(std::size_t binding) {
  ort::Status* status =
      runtime_->calls().RunWithBinding(session_.get(), nullptr, bindings_[binding]->get());
  if (status != nullptr) runtime_->check(status, path_);
}

}  // namespace flux
