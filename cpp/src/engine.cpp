#include "flux/engine.hpp"

#include <algorithm>

namespace flux {

TensorMemory Engine::allocate(std::size_t num_bytes) {
  return {.data = host_memory_.emplace_back(num_bytes).data()};
}

TensorMemory require_memory(std::span<const BoundBuffer> buffers, std::string_view name,
                            const std::string& where, bool takes_device_memory) {
  const auto found = std::ranges::find(buffers, name, &BoundBuffer::name);
  const std::string tensor = where + ": " + std::string(name);
  if (found == buffers.end()) {
    throw std::invalid_argument(expected_got(tensor, "a bound buffer", "none"));
  }
  if (found->memory.is_on_device && !takes_device_memory) {
    throw std::invalid_argument(expected_got(tensor, "host memory", "device memory"));
  }
  return found->memory;
}

}  // namespace flux
