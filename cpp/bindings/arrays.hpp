// Converts numpy arrays to the core's spans. Everything here requires the GIL.
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

// Accepts only float32 arrays, because a silent conversion would hide a mistake of the caller.
// Throws ValueError unless the type is float32 and the shape is one of `shapes`.
FloatArray require_floats(const py::handle& value, std::string_view name,
                          const std::vector<std::vector<std::int64_t>>& shapes);

inline std::span<const float> span_of(const FloatArray& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

// Views of the arrays in a dict; keeps the arrays alive.
class NamedArrays {
 public:
  // Throws ValueError, naming the entry, if a value is not an array or has an unsupported type.
  NamedArrays(const py::dict& arrays, std::span<const TensorInfo> expected);

  [[nodiscard]] std::span<const TensorView> views() const noexcept { return views_; }

 private:
  std::vector<py::array> arrays_;
  std::vector<std::string> names_;
  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<TensorView> views_;
};

}  // namespace flux::bindings
