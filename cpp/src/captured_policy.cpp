#include "flux/captured_policy.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace flux {
CapturedPolicy::CapturedPolicy(CapturedGraph graph)
    : graph_(std::move(graph)), calls_(cuda::load_graph_calls(graph_.driver)) {
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
                             std::span<float> actions, FlowHistograms* also,
                             const std::atomic<bool>* /*cancel*/,
                             const Continuation* /*continuation*/) {
  const StageTimer copying;
  for (const CapturedGraph::Input& input : graph_.inputs) {
    const auto view = std::ranges::find(inputs, input.info.name, &TensorView::name);
    std::memcpy(input.host, view->data, input.info.num_bytes());
  }
  std::ranges::copy(noise, graph_.noise);
  copying.record(&FlowHistograms::copy_in, histograms_, also);
  // The current context is a property of the calling thread.
  check(calls_.cuCtxSetCurrent(graph_.context), "cuCtxSetCurrent");
  check(calls_.cuGraphLaunch(graph_.exec, graph_.stream), "cuGraphLaunch");
  check(calls_.cuStreamSynchronize(graph_.stream), "cuStreamSynchronize");
  std::copy_n(graph_.actions, actions.size(), actions.begin());
}

void CapturedPolicy::check(int code, const char* call) const {
  cuda::require_success(code, call, calls_.cuGetErrorName);
}

}  // namespace flux
