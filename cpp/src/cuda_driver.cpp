#include <dlfcn.h>

#include <stdexcept>

#include "flux/cuda_abi.hpp"
#include "flux/engine.hpp"

namespace flux::cuda {
namespace {

void* open(const std::string& library) {
  // Never closed: the driver lives as long as the process.
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    throw EngineUnavailable(library + ": cannot be loaded (" +
                            (reason ? reason : "no reason given") + "). Install NVIDIA's driver");
  }
  return handle;
}

void* function_in(void* handle, const std::string& library, const std::string& name) {
  void* function = ::dlsym(handle, name.c_str());
  if (function == nullptr) {
    throw EngineUnavailable(
        expected_got(library, "a driver with " + name, "one without it. Update NVIDIA's driver"));
  }
  return function;
}

}  // namespace

#define FLUX_CUDA_LOAD(name, arguments) \
  calls.name = reinterpret_cast<int(*) arguments>(function_in(handle, library, #name));

GraphCalls load_graph_calls(const std::string& library) {
  void* handle = open(library);
  GraphCalls calls;
  FLUX_CUDA_GRAPH_FUNCTIONS(FLUX_CUDA_LOAD)
  return calls;
}

CopyCalls load_copy_calls(const std::string& library) {
  void* handle = open(library);
  CopyCalls calls;
  FLUX_CUDA_COPY_FUNCTIONS(FLUX_CUDA_LOAD)
  return calls;
}

PlayerCalls load_player_calls(const std::string& library) {
  void* handle = open(library);
  PlayerCalls calls;
  FLUX_CUDA_PLAYER_FUNCTIONS(FLUX_CUDA_LOAD)
  return calls;
}

#undef FLUX_CUDA_LOAD

void require_success(int code, const char* call, GetErrorName get_error_name) {
  if (code == kSuccess) return;
  const char* name = nullptr;
  if (get_error_name(code, &name) != kSuccess || name == nullptr) name = "no name";
  throw std::runtime_error(std::string(call) + ": expected success, got CUDA error " +
                           std::to_string(code) + " (" + name + ")");
}

HostToDevice::HostToDevice(const std::string& library) : calls_(load_copy_calls(library)) {
  check(calls_.cuInit(0), "cuInit");
  check(calls_.cuDeviceGet(&device_, 0), "cuDeviceGet");
  check(calls_.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

HostToDevice::~HostToDevice() { calls_.cuDevicePrimaryCtxRelease_v2(device_); }

void HostToDevice::run(std::span<const Copy> copies) const {
  if (copies.empty()) return;
  // The current context is a property of the calling thread.
  check(calls_.cuCtxSetCurrent(context_), "cuCtxSetCurrent");
  for (const Copy& copy : copies) {
    const auto device = reinterpret_cast<std::uintptr_t>(copy.device);
    check(calls_.cuMemcpyHtoDAsync_v2(device, copy.host, copy.num_bytes, nullptr),
          "cuMemcpyHtoDAsync");
  }
  // Engines use streams of their own, which do not wait for this one.
  check(calls_.cuStreamSynchronize(nullptr), "cuStreamSynchronize");
}

}  // namespace flux::cuda
