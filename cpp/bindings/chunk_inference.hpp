// Chunks that Python hands to a control core: to infer, or finished ones.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>

#include "arrays.hpp"
#include "flux/chunk_inference.hpp"

namespace flux::bindings {

// If what the caller passes is refused, the request is answered with that. Both return whether
// somebody wants the chunk. `inference` is kept alive, whatever happens to its loop.
bool infer(std::shared_ptr<ChunkInference> inference, const InferenceRequest& request,
           const py::dict& inputs, const py::handle& state, const py::handle& noise,
           std::int64_t observed_ns);
bool submit_chunk(ChunkInference& inference, const InferenceRequest& request,
                  const py::array& actions, std::int64_t observed_ns);
// The chunk that was inferred last, (H, A).
FloatArray inferred_actions(const ChunkInference& inference);

// A request as plain data, and the request that this data is of.
py::dict request_data(const InferenceRequest& request);
InferenceRequest request_of(const py::dict& data);

}  // namespace flux::bindings
