// The part of the NVIDIA driver's interface that flux calls, declared here so that no header is
// needed to compile. The driver keeps these functions' names and signatures; names that it has
// replaced end in _v2.
#pragma once

namespace flux::cuda {

// Handles whose insides belong to the driver.
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
