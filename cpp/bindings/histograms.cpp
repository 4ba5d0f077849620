#include "histograms.hpp"

namespace flux::bindings {

namespace py = pybind11;

py::dict to_dict(const Histogram& histogram) {
  constexpr double kMsPerSecond = 1e3;
  py::list counts;
  for (const std::uint64_t count : histogram.counts()) counts.append(count);
  py::list edges;
  for (const double edge : Histogram::edges()) edges.append(edge * kMsPerSecond);
  py::dict result;
  result["count"] = histogram.count();
  result["sum_ms"] = histogram.sum_s() * kMsPerSecond;
  result["p50_ms"] = histogram.percentile_s(0.50) * kMsPerSecond;
  result["p95_ms"] = histogram.percentile_s(0.95) * kMsPerSecond;
  result["p99_ms"] = histogram.percentile_s(0.99) * kMsPerSecond;
  result["max_ms"] = histogram.max_s() * kMsPerSecond;
  result["counts"] = counts;
  result["edges_ms"] = edges;
  return result;
}

py::dict to_dict(const FlowHistograms& histograms) {
  py::dict result;
  for (const auto& [name, histogram] : histograms.stages()) result[name] = to_dict(*histogram);
  return result;
}

}  // namespace flux::bindings
