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
struct Module;
struct Function;
struct Graph;
struct GraphExec;

using DeviceAddress = std::uintptr_t;

inline constexpr int kSuccess = 0;
inline constexpr int kOutOfMemory = 2;       // CUDA_ERROR_OUT_OF_MEMORY
inline constexpr int kInvalidImage = 200;    // CUDA_ERROR_INVALID_IMAGE
inline constexpr int kNoBinaryForGpu = 209;  // CUDA_ERROR_NO_BINARY_FOR_GPU

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

#define FLUX_CUDA_PLAYER_FUNCTIONS(X)                                                       \
  X(cuInit, (unsigned flags))                                                               \
  X(cuDeviceGetCount, (int* count))                                                         \
  X(cuDeviceGet, (int* device, int ordinal))                                                \
  X(cuDeviceGetName, (char* name, int size, int device))                                    \
  X(cuDeviceGetAttribute, (int* value, int attribute, int device))                          \
  X(cuDevicePrimaryCtxRetain, (Context**, int device))                                      \
  X(cuDevicePrimaryCtxRelease_v2, (int device))                                             \
  X(cuCtxSetCurrent, (Context*))                                                            \
  X(cuMemGetInfo_v2, (std::size_t* num_free, std::size_t* total))                           \
  X(cuMemAlloc_v2, (DeviceAddress*, std::size_t size))                                      \
  X(cuMemFree_v2, (DeviceAddress))                                                          \
  X(cuMemHostAlloc, (void**, std::size_t size, unsigned flags))                             \
  X(cuMemFreeHost, (void*))                                                                 \
  X(cuMemsetD8Async, (DeviceAddress, unsigned char value, std::size_t size, Stream*))       \
  X(cuMemcpyHtoDAsync_v2, (DeviceAddress, const void* host, std::size_t size, Stream*))     \
  X(cuMemcpyDtoHAsync_v2, (void* host, DeviceAddress, std::size_t size, Stream*))           \
  X(cuModuleLoadData, (Module**, const void* image))                                        \
  X(cuModuleUnload, (Module*))                                                              \
  X(cuModuleGetFunction, (Function**, Module*, const char* symbol))                         \
  X(cuFuncSetAttribute, (Function*, int attribute, int value))                              \
  X(cuStreamCreate, (Stream**, unsigned flags))                                             \
  X(cuStreamDestroy_v2, (Stream*))                                                          \
  X(cuStreamSynchronize, (Stream*))                                                         \
  X(cuStreamBeginCapture_v2, (Stream*, int mode))                                           \
  X(cuStreamEndCapture, (Stream*, Graph**))                                                 \
  X(cuGraphInstantiateWithFlags, (GraphExec**, Graph*, unsigned long long flags))           \
  X(cuGraphDestroy, (Graph*))                                                               \
  X(cuGraphExecDestroy, (GraphExec*))                                                       \
  X(cuGraphUpload, (GraphExec*, Stream*))                                                   \
  X(cuLaunchKernel, (Function*, unsigned grid_x, unsigned grid_y, unsigned grid_z,          \
                     unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared, \
                     Stream*, void** parameters, void** extra))                             \
  X(cuGetErrorName, (int code, const char**))

#define FLUX_CUDA_MEMBER(name, arguments) int(*name) arguments = nullptr;
struct GraphCalls {
  FLUX_CUDA_GRAPH_FUNCTIONS(FLUX_CUDA_MEMBER)
};
struct CopyCalls {
  FLUX_CUDA_COPY_FUNCTIONS(FLUX_CUDA_MEMBER)
};
struct PlayerCalls {
  FLUX_CUDA_PLAYER_FUNCTIONS(FLUX_CUDA_MEMBER)
};
#undef FLUX_CUDA_MEMBER

// Throw EngineUnavailable if the driver's library cannot be loaded or lacks a function.
GraphCalls load_graph_calls(const std::string& library);
CopyCalls load_copy_calls(const std::string& library);
PlayerCalls load_player_calls(const std::string& library);

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
