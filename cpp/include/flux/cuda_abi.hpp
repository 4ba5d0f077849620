// The part of the NVIDIA driver API that flux calls, declared here so that compiling needs no CUDA
// header. The driver never changes the name or signature of a function; a replacement gets a name
// that ends in _v2.
#pragma once

namespace flux::cuda {

// Opaque handles of the driver.
struct Context;
struct Stream;
struct GraphExec;

inline constexpr int kSuccess = 0;

// X(name, arguments); each returns an error code.
#define FLUX_CUDA_FUNCTIONS(X)            \
  X(cuCtxSetCurrent, (Context*))          \
  X(cuGraphLaunch, (GraphExec*, Stream*)) \
  X(cuStreamSynchronize, (Stream*))       \
  X(cuGetErrorName, (int code, const char**))

struct Calls {
#define FLUX_CUDA_MEMBER(name, arguments) int(*name) arguments = nullptr;
  FLUX_CUDA_FUNCTIONS(FLUX_CUDA_MEMBER)
#undef FLUX_CUDA_MEMBER
};

}  // namespace flux::cuda
