// What the flow-matching loop needs of whatever runs a graph.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "flux/tensor.hpp"

namespace flux {

// Memory for the tensor `name`, of exactly the bytes that the engine's TensorInfo says.
struct BoundBuffer {
  std::string_view name;
  void* data = nullptr;
};

// A loaded graph of static shapes. Inputs and outputs are bound to memory once; a run then reads
// and writes that memory and takes no arguments.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  [[nodiscard]] virtual std::span<const TensorInfo> inputs() const noexcept = 0;
  [[nodiscard]] virtual std::span<const TensorInfo> outputs() const noexcept = 0;

  // Binds every input and output by name and returns the binding's number. The memory must
  // outlive the engine. Throws std::invalid_argument if a tensor is missing or unknown.
  [[nodiscard]] virtual std::size_t bind(std::span<const BoundBuffer> buffers) = 0;

  // Runs the graph over a binding's memory. Throws std::runtime_error if the engine fails.
  virtual void run(std::size_t binding) = 0;
};

}  // namespace flux
