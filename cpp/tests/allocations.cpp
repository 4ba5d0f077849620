#include "allocations.hpp"

#include <cstdlib>
#include <new>

namespace {

thread_local std::size_t allocations = 0;

void* allocate(std::size_t num_bytes) {
  ++allocations;
  if (void* memory = std::malloc(num_bytes > 0 ? num_bytes : 1)) return memory;
  throw std::bad_alloc();
}

void* allocate(std::size_t num_bytes, std::align_val_t alignment) {
  ++allocations;
  const auto align = static_cast<std::size_t>(alignment);
  const std::size_t rounded = (num_bytes + align - 1) / align * align;
  if (void* memory = std::aligned_alloc(align, rounded > 0 ? rounded : align)) return memory;
  throw std::bad_alloc();
}

}  // namespace

namespace flux::test {

std::size_t num_allocations() noexcept { return allocations; }

}  // namespace flux::test

// Replaces the program's operator new and delete; the other standard forms call these.
void* operator new(std::size_t num_bytes) { return allocate(num_bytes); }
void* operator new[](std::size_t num_bytes) { return allocate(num_bytes); }
void* operator new(std::size_t num_bytes, std::align_val_t alignment) {
  return allocate(num_bytes, alignment);
}
void* operator new[](std::size_t num_bytes, std::align_val_t alignment) {
  return allocate(num_bytes, alignment);
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
