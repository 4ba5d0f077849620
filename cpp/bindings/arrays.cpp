#include "arrays.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>

namespace flux::bindings {
namespace {

std::vector<std::int64_t> shape_of(const py::array& array) {
  return {array.shape(), array.shape() + array.ndim()};
}

std::optional<DType> dtype_of(const py::array& array) {
  const py::dtype dtype = array.dtype();
  for (const DType candidate : {DType::kFloat32, DType::kFloat64, DType::kInt32, DType::kInt64,
                                DType::kUint8, DType::kBool}) {
    if (dtype.equal(py::dtype(std::string(dtype_name(candidate))))) return candidate;
  }
  return std::nullopt;
}

std::string expected_text(std::string_view name, std::span<const TensorInfo> expected) {
  const auto info = std::ranges::find(expected, name, &TensorInfo::name);
  return info == expected.end() ? "no input of this name" : describe(*info);
}

}  // namespace

std::string describe_array(const py::array& array) {
  return py::str(array.dtype()).cast<std::string>() + " " +
         py::str(array.attr("shape")).cast<std::string>();
}

FloatArray require_floats(const py::handle& value, std::string_view name,
                          const std::vector<std::vector<std::int64_t>>& shapes) {
  std::string expected;
  for (const auto& shape : shapes) {
    expected += (expected.empty() ? "" : " or ") + describe(DType::kFloat32, shape);
  }
  if (!py::isinstance<py::array>(value)) {
    throw std::invalid_argument(
        expected_got(name, expected, py::str(py::type::of(value)).cast<std::string>()));
  }
  const auto array = py::reinterpret_borrow<py::array>(value);
  const bool has_shape = std::ranges::find(shapes, shape_of(array)) != shapes.end();
  if (dtype_of(array) != DType::kFloat32 || !has_shape) {
    throw std::invalid_argument(expected_got(name, expected, describe_array(array)));
  }
  return FloatArray::ensure(array);
}

NamedArrays::NamedArrays(const py::dict& arrays, std::span<const TensorInfo> expected) {
  for (const auto& [key, value] : arrays) {
    const auto name = py::str(key).cast<std::string>();
    if (!py::isinstance<py::array>(value)) {
      throw std::invalid_argument(expected_got(name, expected_text(name, expected),
                                               py::str(py::type::of(value)).cast<std::string>()));
    }
    const auto array = py::array::ensure(value, py::array::c_style);
    if (!array || !dtype_of(array)) {
      throw std::invalid_argument(expected_got(name, expected_text(name, expected),
                                               describe_array(py::cast<py::array>(value))));
    }
    names_.push_back(name);
    shapes_.push_back(shape_of(array));
    arrays_.push_back(array);
  }
  for (std::size_t i = 0; i < arrays_.size(); ++i) {
    views_.push_back({names_[i], *dtype_of(arrays_[i]), shapes_[i], arrays_[i].data()});
  }
}

}  // namespace flux::bindings
