#pragma once

#include <cstddef>

namespace flux::test {

// How often this thread has called operator new. An engine that lives in a shared library of its
// own allocates unseen; what is counted is flux's code.
[[nodiscard]] std::size_t num_allocations() noexcept;

}  // namespace flux::test
