// The interface through which the flow-matching loop runs a graph.
#pragma once

#include <cstddef>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "flux/tensor.hpp"

namespace flux {

// The machine lacks something that the engine needs. The graph is not at fault.
class EngineUnavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Memory owned by someone else, on the host or on an accelerator. The host must not access an
// accelerator's memory.
struct TensorMemory {
  void* data = nullptr;
  bool is_on_device = false;
};

// Memory for the tensor `name`, of exactly the size in the engine's TensorInfo.
struct BoundBuffer {
  std::string_view name;
  TensorMemory memory;
};

// A loaded graph with static shapes. Inputs and outputs are bound to memory once; a run then reads
// and writes that memory and takes no arguments.
class Engine {
 public:
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;
  virtual ~Engine() = default;

  [[nodiscard]] virtual std::span<const TensorInfo> inputs() const noexcept = 0;
  [[nodiscard]] virtual std::span<const TensorInfo> outputs() const noexcept = 0;

  // Allocates memory where the engine computes: on the host unless overridden. It lives as long as
  // the engine; engines on the same device may share it.
  [[nodiscard]] virtual TensorMemory allocate(std::size_t num_bytes);

  // Binds every input and output by name and returns the binding's number. Every engine accepts
  // host memory; outputs in host memory are complete when `run` returns. The memory must outlive
  // the engine. Throws std::invalid_argument if a tensor is missing or in memory that the engine
  // cannot access.
  [[nodiscard]] virtual std::size_t bind(std::span<const BoundBuffer> buffers) = 0;

  // Must be called after the host has written to a binding's inputs and before `run`. An engine on
  // a device with its own memory copies the inputs there; other engines read them in place.
  virtual void upload(std::size_t /*binding*/) {}

  // Runs the graph on a binding's memory. Throws std::runtime_error if the engine fails.
  virtual void run(std::size_t binding) = 0;

 private:
  std::vector<Buffer> host_memory_;
};

// Returns the memory of `name` in `buffers`. Throws std::invalid_argument, with a message that
// starts with `where`, if there is none or if it is on an accelerator and `takes_device_memory` is
// false.
[[nodiscard]] TensorMemory require_memory(std::span<const BoundBuffer> buffers,
                                          std::string_view name, const std::string& where,
                                          bool takes_device_memory);

}  // namespace flux
