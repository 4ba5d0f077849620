// The part of the NVIDIA driver API that flux calls, declared here so that compiling needs no CUDA
// header. The driver never changes the name or signature of a function; a replacement gets a name
// that ends in _v2.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace flux::cuda {

// Opaque handles of the driver.
struct Context;
struct Stream;
struct GraphExec;

inline constexpr int kSuccess = 0;

// X(name, arguments); each returns an error code.
#define FLUX_CUDA_GRAPH_FUNCTIONS(X)      \
  X(cuCtxSetCurrent, (Context*))          \
  X(cuGraphLaunch, (GraphExec*, Stream*)) \
  X(cuStreamSynchronize, (Stream*))       \
  X(cuGetErrorName, (int code, const char**))

#define FLUX_CUDA_COPY_FUNCTIONS(X)                                                             \
  X(cuInit, (unsigned flags))                                                                   \
  X(cuDeviceGet, (int* device, int ordinal))                                                    \
  X(cuDevicePrimaryCtxRetain, (Context**, int device))                                          \
  X(cuDevicePrimaryCtxRelease_v2, (int device))                                                 \
  X(cuCtxSetCurrent, (Context*))                                                                \
  X(cuMemcpyHtoDAsync_v2, (std::uintptr_t device, const void* host, std::size_t size, Stream*)) \
  X(cuStreamSynchronize, (Stream*))                                                             \
  X(cuGetErrorName, (int code, const char**))

#define FLUX_CUDA_MEMBER(name, arguments) int(*name) arguments = nullptr;
struct GraphCalls {
  FLUX_CUDA_GRAPH_FUNCTIONS(FLUX_CUDA_MEMBER)
};
struct CopyCalls {
  FLUX_CUDA_COPY_FUNCTIONS(FLUX_CUDA_MEMBER)
};
#undef FLUX_CUDA_MEMBER

// Throw EngineUnavailable if the driver's library cannot be loaded or lacks a function.
GraphCalls load_graph_calls(const std::string& library);
CopyCalls load_copy_calls(const std::string& library);

using GetErrorName = int (*)(int code, const char**);

// Throws std::runtime_error, which names the call and the error, unless `code` is kSuccess.
void require_success(int code, const char* call, GetErrorName get_error_name);

// Copies from the host to the memory of the first GPU, without an allocation. Its context is the
// one that CUDA's own runtime uses, so any library's memory on that GPU can be written.
class HostToDevice {
 public:
  struct Copy {
    void* device = nullptr;
    const void* host = nullptr;
    std::size_t num_bytes = 0;
  };

  // Throws EngineUnavailable without a usable driver, std::runtime_error if a call fails.
  explicit HostToDevice(const std::string& library);
  HostToDevice(const HostToDevice&) = delete;
  HostToDevice& operator=(const HostToDevice&) = delete;
  ~HostToDevice();

  // Returns when all copies are complete. Throws std::runtime_error if one fails.
  void run(std::span<const Copy> copies) const;

 private:
  void check(int code, const char* call) const {
    require_success(code, call, calls_.cuGetErrorName);
  }

  CopyCalls calls_;
  int device_ = 0;
  Context* context_ = nullptr;
};

}  // namespace flux::cuda
