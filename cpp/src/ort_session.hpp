// The parts around an OrtEngine's session: its options, its tensors and the location of its memory.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "flux/onnxruntime_engine.hpp"

namespace flux::ort {

template <typename Handle>
using Owner = std::unique_ptr<Handle, void (*)(Handle*)>;

// Throws like OrtEngine's constructor; the message starts with `path`.
[[nodiscard]] Owner<SessionOptions> make_options(const OrtRuntime& runtime, const std::string& path,
                                                 const OrtEngineOptions& options);

// The inputs or the outputs of a session, in the graph's order.
[[nodiscard]] std::vector<TensorInfo> tensor_infos(const OrtRuntime& runtime,
                                                   const Session* session, bool is_input,
                                                   const std::string& path);

[[nodiscard]] Owner<MemoryInfo> make_memory_info(const OrtRuntime& runtime, bool is_on_device,
                                                 const std::string& where);

[[nodiscard]] int element_type_of(DType dtype) noexcept;

}  // namespace flux::ort
