#include <cstdint>
#include <optional>
#include <stdexcept>

#include "ort_session.hpp"

namespace flux::ort {
namespace {

std::optional<DType> dtype_of(int element_type) noexcept {
  switch (element_type) {
    case kElementFloat:
      return DType::kFloat32;
    case kElementDouble:
      return DType::kFloat64;
    case kElementFloat16:
      return DType::kFloat16;
    case kElementBfloat16:
      return DType::kBfloat16;
    case kElementInt32:
      return DType::kInt32;
    case kElementInt64:
      return DType::kInt64;
    case kElementUint8:
      return DType::kUint8;
    case kElementBool:
      return DType::kBool;
    default:
      return std::nullopt;
  }
}

std::string tensor_name(const OrtRuntime& runtime, const Session* session, std::size_t index,
                        bool is_input, const std::string& path) {
  const Calls& calls = runtime.calls();
  Allocator* allocator = nullptr;
  runtime.check(calls.GetAllocatorWithDefaultOptions(&allocator), path);
  char* raw = nullptr;
  const auto get = is_input ? calls.SessionGetInputName : calls.SessionGetOutputName;
  runtime.check(get(session, index, allocator, &raw), path);
  std::string name(raw);
  runtime.check(calls.AllocatorFree(allocator, raw), path);
  return name;
}

TensorInfo tensor_info(const OrtRuntime& runtime, const Session* session, std::size_t index,
                       bool is_input, const std::string& path) {
  const Calls& calls = runtime.calls();
  TensorInfo info{.name = tensor_name(runtime, session, index, is_input, path)};
  const std::string where = path + ": " + info.name;
  TypeInfo* raw = nullptr;
  const auto get = is_input ? calls.SessionGetInputTypeInfo : calls.SessionGetOutputTypeInfo;
  runtime.check(get(session, index, &raw), where);
  const Owner<TypeInfo> type(raw, calls.ReleaseTypeInfo);
  const TensorTypeAndShapeInfo* tensor = nullptr;
  runtime.check(calls.CastTypeInfoToTensorInfo(raw, &tensor), where);
  if (tensor == nullptr) {
    throw std::invalid_argument(expected_got(where, "a tensor", "another ONNX type"));
  }

  int element_type = 0;
  runtime.check(calls.GetTensorElementType(tensor, &element_type), where);
  const std::optional<DType> dtype = dtype_of(element_type);
  if (!dtype) {
    throw std::invalid_argument(expected_got(where, "a float, int32, int64, uint8 or bool",
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

}  // namespace

int element_type_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat32:
      return kElementFloat;
    case DType::kFloat64:
      return kElementDouble;
    case DType::kFloat16:
      return kElementFloat16;
    case DType::kBfloat16:
      return kElementBfloat16;
    case DType::kInt32:
      return kElementInt32;
    case DType::kInt64:
      return kElementInt64;
    case DType::kUint8:
      return kElementUint8;
    case DType::kBool:
      return kElementBool;
  }
  return 0;
}

std::vector<TensorInfo> tensor_infos(const OrtRuntime& runtime, const Session* session,
                                     bool is_input, const std::string& path) {
  const Calls& calls = runtime.calls();
  std::size_t count = 0;
  const auto get = is_input ? calls.SessionGetInputCount : calls.SessionGetOutputCount;
  runtime.check(get(session, &count), path);
  std::vector<TensorInfo> infos;
  for (std::size_t i = 0; i < count; ++i) {
    infos.push_back(tensor_info(runtime, session, i, is_input, path));
  }
  return infos;
}

}  // namespace flux::ort
