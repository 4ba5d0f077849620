#include "flux/onnxruntime_engine.hpp"

#include <optional>
#include <stdexcept>
#include <utility>

namespace flux {
namespace {

std::optional<DType> dtype_of(int element_type) noexcept {
  switch (element_type) {
    case ort::kElementFloat:
      return DType::kFloat32;
    case ort::kElementDouble:
      return DType::kFloat64;
    case ort::kElementInt32:
      return DType::kInt32;
    case ort::kElementInt64:
      return DType::kInt64;
    case ort::kElementUint8:
      return DType::kUint8;
    case ort::kElementBool:
      return DType::kBool;
    default:
      return std::nullopt;
  }
}

int element_type_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat32:
      return ort::kElementFloat;
    case DType::kFloat64:
      return ort::kElementDouble;
    case DType::kInt32:
      return ort::kElementInt32;
    case DType::kInt64:
      return ort::kElementInt64;
    case DType::kUint8:
      return ort::kElementUint8;
    case DType::kBool:
      return ort::kElementBool;
  }
  return 0;
}

using SessionOptionsOwner = std::unique_ptr<ort::SessionOptions, void (*)(ort::SessionOptions*)>;

SessionOptionsOwner make_options(const OrtRuntime& runtime, const std::string& path,
                                 int num_threads) {
  if (num_threads < 1) {
    throw std::invalid_argument(
        expected_got("num_threads", "at least 1", std::to_string(num_threads)));
  }
  const ort::Calls& calls = runtime.calls();
  ort::SessionOptions* raw = nullptr;
  runtime.check(calls.CreateSessionOptions(&raw), path);
  SessionOptionsOwner options(raw, calls.ReleaseSessionOptions);
  runtime.check(calls.SetSessionGraphOptimizationLevel(raw, ort::kEnableAllOptimizations), path);
  runtime.check(calls.SetIntraOpNumThreads(raw, num_threads), path);
  // Threads that spin after a run would take the processor from the control thread and from the
  // other graph.
  runtime.check(calls.AddSessionConfigEntry(raw, "session.force_spinning_stop", "1"), path);
  return options;
}

std::string tensor_name(const OrtRuntime& runtime, const ort::Session* session, std::size_t index,
                        bool is_input, const std::string& path) {
  const ort::Calls& calls = runtime.calls();
  ort::Allocator* allocator = nullptr;
  runtime.check(calls.GetAllocatorWithDefaultOptions(&allocator), path);
  char* raw = nullptr;
  const auto get = is_input ? calls.SessionGetInputName : calls.SessionGetOutputName;
  runtime.check(get(session, index, allocator, &raw), path);
  std::string name(raw);
  runtime.check(calls.AllocatorFree(allocator, raw), path);
  return name;
}

TensorInfo tensor_info(const OrtRuntime& runtime, const ort::Session* session, std::size_t index,
                       bool is_input, const std::string& path) {
  const ort::Calls& calls = runtime.calls();
  TensorInfo info{.name = tensor_name(runtime, session, index, is_input, path)};
  const std::string where = path + ": " + info.name;
  ort::TypeInfo* raw = nullptr;
  const auto get = is_input ? calls.SessionGetInputTypeInfo : calls.SessionGetOutputTypeInfo;
  runtime.check(get(session, index, &raw), where);
  const std::unique_ptr<ort::TypeInfo, void (*)(ort::TypeInfo*)> type(raw, calls.ReleaseTypeInfo);
  const ort::TensorTypeAndShapeInfo* tensor = nullptr;
  runtime.check(calls.CastTypeInfoToTensorInfo(raw, &tensor), where);
  if (tensor == nullptr) throw std::invalid_argument(expected_got(where, "a tensor", "another type"));

  int element_type = 0;
  runtime.check(calls.GetTensorElementType(tensor, &element_type), where);
  const std::optional<DType> dtype = dtype_of(element_type);
  if (!dtype) {
    throw std::invalid_argument(expected_got(where, "float32, float64, int32, int64, uint8 or bool",
                                         "ONNX element type " + std::to_string(element_type)));
  }
  info.dtype = *dtype;
  std::size_t num_dims = 0;
  runtime.check(calls.GetDimensionsCount(tensor, &num_dims), where);
  info.shape.resize(num_dims);
  runtime.check(calls.GetDimensions(tensor, info.shape.data(), num_dims), where);
  for (const std::int64_t dim : info.shape) {
    if (dim < 1) {
      throw std::invalid_argument(
          expected_got(where, "a static shape without empty dimensions", describe(info)));
    }
  }
  return info;
}

std::vector<TensorInfo> tensor_infos(const OrtRuntime& runtime, const ort::Session* session,
                                     bool is_input, const std::string& path) {
  const ort::Calls& calls = runtime.calls();
  std::size_t count = 0;
  const auto get = is_input ? calls.SessionGetInputCount : calls.SessionGetOutputCount;
  runtime.check(get(session, &count), path);
  std::vector<TensorInfo> infos;
  for (std::size_t i = 0; i < count; ++i) {
    infos.push_back(tensor_info(runtime, session, i, is_input, path));
  }
  return infos;
}

const BoundBuffer& find_buffer(std::span<const BoundBuffer> buffers, const std::string& name,
                               const std::string& path) {
  for (const BoundBuffer& buffer : buffers) {
    if (buffer.name == name) return buffer;
  }
  throw std::invalid_argument(expected_got(path + ": " + name, "a bound buffer", "none"));
}

}  // namespace

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

  void add(const TensorInfo& info, void* data, bool is_input) {
    const ort::Calls& calls = runtime_.calls();
    const std::string where = path_ + ": " + info.name;
    ort::MemoryInfo* raw = nullptr;
    runtime_.check(
        calls.CreateCpuMemoryInfo(ort::kDeviceAllocator, ort::kDefaultMemory, &raw), where);
    const std::unique_ptr<ort::MemoryInfo, void (*)(ort::MemoryInfo*)> memory(
        raw, calls.ReleaseMemoryInfo);
    values_.push_back(nullptr);
    runtime_.check(calls.CreateTensorWithDataAsOrtValue(
                       raw, data, info.num_bytes(), info.shape.data(), info.shape.size(),
                       element_type_of(info.dtype), &values_.back()),
                   where);
    const auto attach = is_input ? calls.BindInput : calls.BindOutput;
    runtime_.check(attach(binding_, info.name.c_str(), values_.back()), where);
  }

  [[nodiscard]] const ort::IoBinding* get() const noexcept { return binding_; }

 private:
  const OrtRuntime& runtime_;
  const std::string& path_;
  ort::IoBinding* binding_ = nullptr;
  std::vector<ort::Value*> values_;
};

OrtEngine::OrtEngine(std::shared_ptr<const OrtRuntime> runtime, const std::string& path,
                     int num_threads)
    : runtime_(std::move(runtime)),
      path_(path),
      session_(nullptr, runtime_->calls().ReleaseSession) {
  const SessionOptionsOwner options = make_options(*runtime_, path, num_threads);
  ort::Session* session = nullptr;
  runtime_->check(
      runtime_->calls().CreateSession(runtime_->env(), path.c_str(), options.get(), &session),
      path);
  session_.reset(session);
  inputs_ = tensor_infos(*runtime_, session, true, path);
  outputs_ = tensor_infos(*runtime_, session, false, path);
}

OrtEngine::~OrtEngine() = default;

std::size_t OrtEngine::bind(std::span<const BoundBuffer> buffers) {
  auto binding = std::make_unique<Binding>(*runtime_, session_.get(), path_);
  for (const TensorInfo& info : inputs_) {
    binding->add(info, find_buffer(buffers, info.name, path_).data, true);
  }
  for (const TensorInfo& info : outputs_) {
    binding->add(info, find_buffer(buffers, info.name, path_).data, false);
  }
  bindings_.push_back(std::move(binding));
  return bindings_.size() - 1;
}

void OrtEngine::run(std::size_t binding) {
  ort::Status* status =
      runtime_->calls().RunWithBinding(session_.get(), nullptr, bindings_[binding]->get());
  if (status != nullptr) runtime_->check(status, path_);
}

}  // namespace flux
