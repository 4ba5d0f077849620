#include "flux/chunk_player.hpp"

#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "arrays.hpp"
#include "module.hpp"

namespace flux::bindings {
namespace {

std::vector<float> rows_of(const ChunkPlayer& player, const py::array& rows) {
  const auto action_dim = static_cast<std::int64_t>(player.action_dim());
  const std::int64_t count = rows.ndim() == 2 ? rows.shape(0) : 0;
  if (count < 1 || count > static_cast<std::int64_t>(player.max_rows())) {
    throw std::invalid_argument(
        expected_got("rows", "float32 (1 to " + std::to_string(player.max_rows()) + ", A)",
                     describe_array(rows)));
  }
  const FloatArray values = require_floats(rows, "rows", {{count, action_dim}});
  const std::span<const float> span = span_of(values);
  return {span.begin(), span.end()};
}

double checked_rate(double rate) {
  // Written so that a NaN fails.
  if (rate >= 0.0 && rate <= 1.0) return rate;
  throw std::invalid_argument(expected_got("rate", "0 to 1", std::to_string(rate)));
}

FloatArray look(ChunkPlayer& player, double rate) {
  if (!player.has_row()) throw std::logic_error(expected_got("look", "a row to execute", "none"));
  const std::span<const float> action = player.look(checked_rate(rate)).action;
  FloatArray array(static_cast<py::ssize_t>(action.size()));
  std::ranges::copy(action, array.mutable_data());
  return array;
}

}  // namespace

void bind_chunk_player(py::module_& module) {
  py::class_<ChunkPlayer>(module, "ChunkPlayer", "Where in its chunks a robot is.")
      .def(py::init<std::size_t, std::size_t>(), py::kw_only(), py::arg("action_dim"),
           py::arg("max_rows"))
      .def(
          "begin",
          [](ChunkPlayer& player, const py::array& rows, std::int64_t first_row) {
            std::vector<float> values = rows_of(player, rows);
            if (!player.has_reached(first_row)) {
              throw std::invalid_argument(expected_got("first_row", "one that has been reached",
                                                       std::to_string(first_row)));
            }
            player.begin(values, first_row);
          },
          py::arg("rows"), py::arg("first_row"))
      .def("look", &look, py::arg("rate"))
      .def(
          "advance", [](ChunkPlayer& player, double rate) { player.advance(checked_rate(rate)); },
          py::arg("rate"))
      .def_property_readonly("has_row", &ChunkPlayer::has_row)
      .def_property_readonly("next_row", &ChunkPlayer::next_row);
}

}  // namespace flux::bindings
