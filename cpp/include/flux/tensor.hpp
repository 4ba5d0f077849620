// Tensors as names, types, shapes and bytes. Nothing here depends on an engine.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace flux {

// float16 and bfloat16 tensors only pass from one graph to the other; flux does not read their
// values.
enum class DType { kFloat32, kFloat64, kFloat16, kBfloat16, kInt32, kInt64, kUint8, kBool };

[[nodiscard]] std::size_t item_size(DType dtype) noexcept;
// numpy's name: "float32", "bool", ...
[[nodiscard]] std::string_view dtype_name(DType dtype) noexcept;

// One input or output of a graph. Every dimension is at least 1.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kFloat32;
  std::vector<std::int64_t> shape = {};

  [[nodiscard]] std::size_t num_elements() const noexcept;
  [[nodiscard]] std::size_t num_bytes() const noexcept;
  [[nodiscard]] bool has_layout_of(const TensorInfo& other) const noexcept;
};

// "float32 (1, 50, 14)"
[[nodiscard]] std::string describe(DType dtype, std::span<const std::int64_t> shape);
[[nodiscard]] std::string describe(const TensorInfo& info);

// "name: expected X, got Y"
[[nodiscard]] std::string expected_got(std::string_view name, std::string_view expected,
                                       std::string_view got);

// Contiguous row-major values that are owned by someone else.
struct TensorView {
  std::string_view name;
  DType dtype = DType::kFloat32;
  std::span<const std::int64_t> shape;
  const void* data = nullptr;
};

// Zero-initialised memory of a fixed size, aligned for vector loads.
class Buffer {
 public:
  explicit Buffer(std::size_t num_bytes);

  [[nodiscard]] std::byte* data() noexcept { return bytes_.get(); }
  [[nodiscard]] const std::byte* data() const noexcept { return bytes_.get(); }
  [[nodiscard]] std::size_t num_bytes() const noexcept { return num_bytes_; }
  [[nodiscard]] std::span<float> floats() noexcept;

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Free {
    void operator()(std::byte* bytes) const noexcept { ::operator delete(bytes, kAlignment); }
  };

  std::size_t num_bytes_;
  std::unique_ptr<std::byte, Free> bytes_;
};

}  // namespace flux
