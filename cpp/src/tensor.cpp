#include "flux/tensor.hpp"

#include <cstring>

namespace flux {

std::size_t item_size(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat16:
    case DType::kBfloat16:
      return 2;
    case DType::kUint8:
    case DType::kBool:
      return 1;
  }
  return 0;
}

std::string_view dtype_name(DType dtype) noexcept {
  switch (dtype) {
    case DType::kFloat32:
      return "float32";
    case DType::kFloat64:
      return "float64";
    case DType::kFloat16:
      return "float16";
    case DType::kBfloat16:
      return "bfloat16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
    case DType::kUint8:
      return "uint8";
    case DType::kBool:
      return "bool";
  }
  return "?";
}

std::size_t TensorInfo::num_elements() const noexcept {
  std::size_t count = 1;
  for (const std::int64_t dim : shape) count *= static_cast<std::size_t>(dim);
  return count;
}

std::size_t TensorInfo::num_bytes() const noexcept { return num_elements() * item_size(dtype); }

bool TensorInfo::has_layout_of(const TensorInfo& other) const noexcept {
  return dtype == other.dtype && shape == other.shape;
}

std::string describe(DType dtype, std::span<const std::int64_t> shape) {
  std::string text(dtype_name(dtype));
  text += " (";
  for (std::size_t i = 0; i < shape.size(); ++i) {
    if (i > 0) text += ", ";
    text += std::to_string(shape[i]);
  }
  text += shape.size() == 1 ? ",)" : ")";
  return text;
}

std::string describe(const TensorInfo& info) { return describe(info.dtype, info.shape); }

std::string expected_got(std::string_view name, std::string_view expected, std::string_view got) {
  std::string text(name);
  text.append(": expected ").append(expected).append(", got ").append(got);
  return text;
}

Buffer::Buffer(std::size_t num_bytes)
    : num_bytes_(num_bytes),
      bytes_(static_cast<std::byte*>(::operator new(num_bytes, kAlignment))) {
  std::memset(bytes_.get(), 0, num_bytes);
}

std::span<float> Buffer::floats() noexcept {
  return {reinterpret_cast<float*>(bytes_.get()), num_bytes_ / sizeof(float)};
}

}  // namespace flux
