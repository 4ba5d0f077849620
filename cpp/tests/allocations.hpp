#pragma once

#include <cstddef>

namespace flux::test {

// How often this thread has called operator new. Only flux's own code is counted: allocations
// inside an engine's shared library are not seen.
[[nodiscard]] std::size_t num_allocations() noexcept;

}  // namespace flux::test
