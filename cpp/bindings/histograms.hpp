#pragma once

#include <pybind11/pybind11.h>

#include "flux/histogram.hpp"
#include "flux/policy.hpp"

namespace flux::bindings {

// {count, sum_ms, p50_ms, p95_ms, p99_ms, max_ms, counts, edges_ms}
pybind11::dict to_dict(const Histogram& histogram);
// One such dict per stage.
pybind11::dict to_dict(const FlowHistograms& histograms);

}  // namespace flux::bindings
