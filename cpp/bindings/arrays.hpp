// Converts numpy arrays to the core's spans. Everything here requires the GIL.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <span>
#include <stdexcept>
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

// The values of an array of shape (A,); throws ValueError, naming it, for any other shape.
template <typename T, int kFlags>
std::span<const T> vector_of(const py::array_t<T, kFlags>& array, const char* name) {
  if (array.ndim() != 1) {
    throw std::invalid_argument(expected_got(name, "shape (A,)", describe_array(array)));
  }
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
