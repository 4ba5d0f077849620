#include "flux/openvino_engine.hpp"

#include <optional>
#include <stdexcept>
#include <utility>

namespace flux {
namespace {

using openvino::Element;

template <typename Handle>
using Owner = std::unique_ptr<Handle, void (*)(Handle*)>;

constexpr std::pair<unsigned, DType> kElements[] = {
    {openvino::kElementFloat, DType::kFloat32},   {openvino::kElementDouble, DType::kFloat64},
    {openvino::kElementFloat16, DType::kFloat16}, {openvino::kElementBfloat16, DType::kBfloat16},
    {openvino::kElementInt32, DType::kInt32},     {openvino::kElementInt64, DType::kInt64},
    {openvino::kElementUint8, DType::kUint8},     {openvino::kElementBoolean, DType::kBool}};

std::optional<DType> dtype_of(Element element) noexcept {
  for (const auto& [number, dtype] : kElements) {
    if (number == static_cast<unsigned>(element)) return dtype;
  }
  return std::nullopt;
}

Element element_of(DType dtype) noexcept {
  for (const auto& [number, candidate] : kElements) {
    if (candidate == dtype) return static_cast<Element>(number);
  }
  return {};
}

TensorInfo tensor_info(const OpenVinoRuntime& runtime, const openvino::Port* port,
                       const std::string& path) {
  const openvino::Calls& calls = runtime.calls();
  char* name = nullptr;
  runtime.check(calls.ov_port_get_any_name(port, &name), path);
  TensorInfo info{.name = name};
  calls.ov_free(name);
  const std::string where = path + ": " + info.name;
  Element element{};
  runtime.check(calls.ov_port_get_element_type(port, &element), where);
  const std::optional<DType> dtype = dtype_of(element);
  if (!dtype) {
    throw std::invalid_argument(
        expected_got(where, "a float, int32, int64, uint8 or bool",
                     "OpenVINO element type " + std::to_string(static_cast<unsigned>(element))));
  }
  info.dtype = *dtype;
  openvino::Shape shape{};
  runtime.check(calls.ov_const_port_get_shape(port, &shape), where);
  info.shape.assign(shape.dims, shape.dims + shape.rank);
  runtime.check(calls.ov_shape_free(&shape), where);
  return info;
}

std::vector<TensorInfo> tensor_infos(const OpenVinoRuntime& runtime,
                                     const openvino::CompiledModel* model, bool is_input,
                                     const std::string& path) {
  const openvino::Calls& calls = runtime.calls();
  const auto count_of =
      is_input ? calls.ov_compiled_model_inputs_size : calls.ov_compiled_model_outputs_size;
  const auto port_of =
      is_input ? calls.ov_compiled_model_input_by_index : calls.ov_compiled_model_output_by_index;
  std::size_t count = 0;
  runtime.check(count_of(model, &count), path);
  std::vector<TensorInfo> infos;
  for (std::size_t i = 0; i < count; ++i) {
    openvino::Port* raw = nullptr;
    runtime.check(port_of(model, i, &raw), path);
    const Owner<openvino::Port> port(raw, calls.ov_output_const_port_free);
    infos.push_back(tensor_info(runtime, raw, path));
  }
  return infos;
}

}  // namespace

// An inference request and the tensors that it refers to.
class OpenVinoEngine::Binding {
 public:
  Binding(const OpenVinoRuntime& runtime, const openvino::CompiledModel* model,
          const std::string& path)
      : runtime_(runtime), path_(path) {
    runtime.check(runtime.calls().ov_compiled_model_create_infer_request(model, &request_), path);
  }
  Binding(const Binding&) = delete;
  Binding& operator=(const Binding&) = delete;
  ~Binding() {
    const openvino::Calls& calls = runtime_.calls();
    calls.ov_infer_request_free(request_);
    for (openvino::Tensor* tensor : tensors_) calls.ov_tensor_free(tensor);
  }

  void add(const TensorInfo& info, std::size_t index, void* data, bool is_input) {
    const openvino::Calls& calls = runtime_.calls();
    const std::string where = path_ + ": " + info.name;
    std::vector<std::int64_t> dims = info.shape;
    const openvino::Shape shape{static_cast<std::int64_t>(dims.size()), dims.data()};
    tensors_.push_back(nullptr);
    runtime_.check(
        calls.ov_tensor_create_from_host_ptr(element_of(info.dtype), shape, data, &tensors_.back()),
        where);
    const auto attach = is_input ? calls.ov_infer_request_set_input_tensor_by_index
                                 : calls.ov_infer_request_set_output_tensor_by_index;
    runtime_.check(attach(request_, index, tensors_.back()), where);
  }

  void run() {
    const openvino::Status status = runtime_.calls().ov_infer_request_infer(request_);
    if (static_cast<int>(status) != openvino::kOk) runtime_.check(status, path_);
  }

 private:
  const OpenVinoRuntime& runtime_;
  const std::string& path_;
  openvino::InferRequest* request_ = nullptr;
  std::vector<openvino::Tensor*> tensors_;
};

OpenVinoEngine::OpenVinoEngine(std::shared_ptr<const OpenVinoRuntime> runtime,
                               const std::string& path)
    : runtime_(std::move(runtime)),
      path_(path),
      model_(nullptr, runtime_->calls().ov_compiled_model_free) {
  const openvino::Calls& calls = runtime_->calls();
  openvino::Model* raw = nullptr;
  runtime_->check(calls.ov_core_read_model(runtime_->core(), path.c_str(), nullptr, &raw), path);
  const Owner<openvino::Model> model(raw, calls.ov_model_free);
  openvino::CompiledModel* compiled = nullptr;
  runtime_->check(
      calls.ov_core_compile_model(runtime_->core(), raw, "CPU", std::size_t{0}, &compiled), path);
  model_.reset(compiled);
  runtime_->require_properties(compiled);
  inputs_ = tensor_infos(*runtime_, compiled, true, path);
  outputs_ = tensor_infos(*runtime_, compiled, false, path);
}

OpenVinoEngine::~OpenVinoEngine() = default;

std::size_t OpenVinoEngine::bind(std::span<const BoundBuffer> buffers) {
  auto binding = std::make_unique<Binding>(*runtime_, model_.get(), path_);
  const auto add_all = [&](const std::vector<TensorInfo>& infos, bool is_input) {
    for (std::size_t i = 0; i < infos.size(); ++i) {
      const TensorMemory memory = require_memory(buffers, infos[i].name, path_, false);
      binding->add(infos[i], i, memory.data, is_input);
    }
  };
  add_all(inputs_, true);
  add_all(outputs_, false);
  bindings_.push_back(std::move(binding));
  return bindings_.size() - 1;
}

void OpenVinoEngine::run(std::size_t binding) { bindings_[binding]->run(); }

}  // namespace flux
