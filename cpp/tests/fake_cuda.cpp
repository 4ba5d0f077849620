// A library with the functions of NVIDIA's driver that flux calls; needs no GPU.
#include "fake_cuda.hpp"

#include "flux/cuda_abi.hpp"

namespace {

thread_local flux::cuda::Context* current = nullptr;

}  // namespace

extern "C" {

__attribute__((visibility("default"))) int cuCtxSetCurrent(flux::cuda::Context* context) {
  current = context;
  return context->code;
}

__attribute__((visibility("default"))) int cuGraphLaunch(flux::cuda::GraphExec* graph,
                                                         flux::cuda::Stream* stream) {
  if (current == nullptr) return 201;
  if (graph->code == 0) stream->launched = graph;
  return graph->code;
}

__attribute__((visibility("default"))) int cuStreamSynchronize(flux::cuda::Stream* stream) {
  if (stream->launched != nullptr) stream->launched->run(stream->launched->data);
  stream->launched = nullptr;
  return stream->code;
}

__attribute__((visibility("default"))) int cuGetErrorName(int code, const char** name) {
  if (code == 700) *name = "CUDA_ERROR_ILLEGAL_ADDRESS";
  return code == 700 ? 0 : 1;
}
}
