#include "flux/captured_policy.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace flux {
namespace {

cuda::Calls load(const std::string& library) {
  // Never closed: the driver lives as long as the process.
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    throw EngineUnavailable(library + ": cannot be loaded (" +
                            (reason ? reason : "no reason given") + "). Install NVIDIA's driver");
  }
  cuda::Calls calls;
#define FLUX_CUDA_LOAD(name, arguments)                                                           \
  calls.name = reinterpret_cast<int(*) arguments>(::dlsym(handle, #name));                        \
  if (calls.name == nullptr) {                                                                    \
    throw EngineUnavailable(                                                                      \
        expected_got(library, "a driver with " #name, "one without it. Update NVIDIA's driver")); \
  }
  using namespace cuda;
  FLUX_CUDA_FUNCTIONS(FLUX_CUDA_LOAD)
#undef FLUX_CUDA_LOAD
  return calls;
}

}  // namespace

CapturedPolicy::CapturedPolicy(CapturedGraph graph)
    : graph_(std::move(graph)), calls_(load(graph_.driver)) {
  bool is_complete = graph_.context != nullptr && graph_.stream != nullptr &&
                     graph_.exec != nullptr && graph_.noise != nullptr &&
                     graph_.actions != nullptr && graph_.action_horizon > 0 &&
                     graph_.action_dim > 0;
  std::vector<TensorInfo> infos;
  for (const CapturedGraph::Input& input : graph_.inputs) {
    is_complete = is_complete && input.host != nullptr;
    infos.push_back(input.info);
  }
  if (!is_complete) {
    throw std::invalid_argument(expected_got(
        "captured graph",
        "a context, a stream, a graph, an address for every tensor and a non-empty action shape",
        "an incomplete one"));
  }
  set_user_inputs(std::move(infos));
  set_action_shape(graph_.action_horizon, graph_.action_dim);
}

void CapturedPolicy::compute(std::span<const TensorView> inputs, std::span<const float> noise,
                             std::span<float> actions, FlowHistograms* also) {
  const StageTimer copying;
  for (const CapturedGraph::Input& input : graph_.inputs) {
    const auto view = std::ranges::find(inputs, input.info.name, &TensorView::name);
    std::memcpy(input.host, view->data, input.info.num_bytes());
  }
  std::ranges::copy(noise, graph_.noise);
  copying.record(&FlowHistograms::copy_in, histograms_, also);
  // The current context is a property of the calling thread.
  require_success(calls_.cuCtxSetCurrent(graph_.context), "cuCtxSetCurrent");
  require_success(calls_.cuGraphLaunch(graph_.exec, graph_.stream), "cuGraphLaunch");
  require_success(calls_.cuStreamSynchronize(graph_.stream), "cuStreamSynchronize");
  std::copy_n(graph_.actions, actions.size(), actions.begin());
}

void CapturedPolicy::require_success(int code, const char* call) const {
  if (code == cuda::kSuccess) return;
  const char* name = nullptr;
  if (calls_.cuGetErrorName(code, &name) != cuda::kSuccess || name == nullptr) name = "no name";
  throw std::runtime_error(std::string(call) + ": expected success, got CUDA error " +
                           std::to_string(code) + " (" + name + ")");
}

}  // namespace flux
