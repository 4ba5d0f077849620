// What the flow-matching loop needs of whatever runs a graph.
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "flux/tensor.hpp"

namespace flux {

// The machine lacks what an engine needs. The graph is not to blame.
class EngineUnavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Memory that somebody else owns: the host's, or an accelerator's, which the host must not touch.
struct TensorMemory {
  void* data = nullptr;
  bool is_on_device = false;
};

// Memory for the tensor `name`, of exactly the bytes that the engine's TensorInfo says.
struct BoundBuffer {
  std::string_view name;
  TensorMemory memory;
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

  // Memory where the engine computes: the host's unless overridden. Lives as long as the engine;
  // engines of the same device may share it.
  [[nodiscard]] virtual TensorMemory allocate(std::size_t num_bytes);

  // Binds every input and output by name and returns the binding's number. Every engine takes host
  // memory; outputs in it are there when `run` returns. The memory must outlive the engine. Throws
  // std::invalid_argument if a tensor is missing or in memory that the engine cannot reach.
  [[nodiscard]] virtual std::size_t bind(std::span<const BoundBuffer> buffers) = 0;

  // To be called before `run` once the host has written to a binding's inputs: an engine whose
  // device has memory of its own copies them there. Others read the host's.
  virtual void upload(std::size_t /*binding*/) {}

  // Runs the graph over a binding's memory. Throws std::runtime_error if the engine fails.
  virtual void run(std::size_t binding) = 0;

 private:
  std::vector<Buffer> host_memory_;
};

// The memory of `name` among `buffers`. Throws std::invalid_argument, opening with `where`, if
// there is none, or if it is an accelerator's and `takes_device_memory` is false.
[[nodiscard]] TensorMemory require_memory(std::span<const BoundBuffer> buffers,
                                          std::string_view name, const std::string& where,
                                          bool takes_device_memory);

}  // namespace flux
