// Between numpy arrays and the core's spans. Everything here needs the GIL.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flux/tensor.hpp"

namespace flux::bindings {

namespace py = pybind11;

using FloatArray = py::array_t<float, py::array::c_style>;

// "float32 (14,)"
std::string describe_array(const py::array& array);

// Takes a float32 array as it is; converting silently would hide a mistake of the caller.
// Throws ValueError unless its type is float32 and its shape one of `shapes`.
FloatArray require_floats(const py::handle& value, std::string_view name,
                          const std::vector<std::vector<std::int64_t>>& shapes);

inline std::span<const float> span_of(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

// A dict of arrays as views, with the arrays that they refer to.
class NamedArrays {
 public:
  // Throws ValueError, naming the entry, if a value is no array or of an unsupported type.
  NamedArrays(const py::dict& arrays, std::span<const TensorInfo> expected);

  [[nodiscard]] std::span<const TensorView> views() const noexcept { return views_; }

 private:
  std::vector<py::array> arrays_;
  std::vector<std::string> names_;
  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<TensorView> views_;
};

}  // namespace flux::bindings
