// An accelerator's memory as the host sees it: addresses that it must not access.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <map>
#include <stdexcept>
#include <vector>

namespace flux::test {

// Hands out addresses that crash the program if the host accesses them; only the device can look up
// the values behind them.
class FakeDevice {
 public:
  FakeDevice() = default;
  FakeDevice(const FakeDevice&) = delete;
  FakeDevice& operator=(const FakeDevice&) = delete;
  ~FakeDevice() {
    for (const auto& [address, values] : memory_) ::munmap(address, size_of(values));
  }

  void* allocate(std::size_t num_bytes) {
    std::vector<float> values(num_bytes / sizeof(float));
    void* address = ::mmap(nullptr, size_of(values), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) throw std::runtime_error("fake device: mmap fails");
    memory_.emplace(address, std::move(values));
    return address;
  }

  void free(void* address) {
    const auto found = memory_.find(address);
    ::munmap(address, size_of(found->second));
    memory_.erase(found);
  }

  // The values behind an address; throws std::out_of_range if the device did not allocate it.
  [[nodiscard]] float* values(void* address) { return memory_.at(address).data(); }
  [[nodiscard]] std::size_t num_allocated() const noexcept { return memory_.size(); }

 private:
  static std::size_t size_of(const std::vector<float>& values) {
    return (values.size() + 1) * sizeof(float);
  }

  std::map<void*, std::vector<float>> memory_;
};

}  // namespace flux::test
