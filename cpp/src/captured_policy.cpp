#include "flux/captured_policy.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace flux {
namespace {

void require_complete(bool is_complete) {
  if (is_complete) return;
  throw std::invalid_argument(expected_got(
      "captured graph",
      "a context, a stream, a graph, an address for every tensor and a non-empty action shape",
      "an incomplete one"));
}

// Every tensor has its own memory; there is one graph.
class PlainInputs final : public CapturedInputs {
 public:
  PlainInputs(std::vector<CapturedGraph::Input> inputs, std::span<float> noise,
              cuda::GraphExec* exec)
      : inputs_(std::move(inputs)), noise_(noise), exec_(exec) {
    require_complete(noise.data() != nullptr && exec != nullptr &&
                     std::ranges::none_of(inputs_, [](const auto& input) { return !input.host; }));
  }

  [[nodiscard]] std::vector<TensorInfo> infos() const override {
    std::vector<TensorInfo> infos;
    for (const CapturedGraph::Input& input : inputs_) infos.push_back(input.info);
    return infos;
  }

  [[nodiscard]] cuda::GraphExec* write(std::span<const TensorView> inputs,
                                       std::span<const float> noise,
                                       const Continuation* /*continuation*/) override {
    for (const CapturedGraph::Input& input : inputs_) {
      const auto view = std::ranges::find(inputs, input.info.name, &TensorView::name);
      std::memcpy(input.host, view->data, input.info.num_bytes());
    }
    std::ranges::copy(noise, noise_.begin());
    return exec_;
  }

 private:
  std::vector<CapturedGraph::Input> inputs_;
  std::span<float> noise_;
  cuda::GraphExec* exec_;
};

CapturedGraphs with_plain_inputs(CapturedGraph graph) {
  require_complete(graph.action_horizon > 0 && graph.action_dim > 0);
  const std::size_t num_values =
      static_cast<std::size_t>(graph.action_horizon) * static_cast<std::size_t>(graph.action_dim);
  return {.driver = std::move(graph.driver),
          .context = graph.context,
          .stream = graph.stream,
          .inputs = std::make_unique<PlainInputs>(std::move(graph.inputs),
                                                  std::span(graph.noise, num_values), graph.exec),
          .actions = graph.actions,
          .action_horizon = graph.action_horizon,
          .action_dim = graph.action_dim,
          .owner = std::move(graph.owner)};
}

}  // namespace

CapturedPolicy::CapturedPolicy(CapturedGraphs graphs)
    : graphs_(std::move(graphs)), calls_(cuda::load_graph_calls(graphs_.driver)) {
  require_complete(graphs_.context != nullptr && graphs_.stream != nullptr &&
                   graphs_.inputs != nullptr && graphs_.actions != nullptr &&
                   graphs_.action_horizon > 0 && graphs_.action_dim > 0);
  set_user_inputs(graphs_.inputs->infos());
  set_action_shape(graphs_.action_horizon, graphs_.action_dim);
}

CapturedPolicy::CapturedPolicy(CapturedGraph graph)
    : CapturedPolicy(with_plain_inputs(std::move(graph))) {}

bool CapturedPolicy::can_continue() const noexcept { return graphs_.inputs->takes_prefix(); }

void CapturedPolicy::compute(std::span<const TensorView> inputs, std::span<const float> noise,
                             std::span<float> actions, FlowHistograms* also,
                             const std::atomic<bool>* cancel, const Continuation* continuation) {
  // After its launch, an inference runs to its end; whoever cancelled it drops its result.
  if (cancel != nullptr && cancel->load(std::memory_order_relaxed)) {
    throw InferenceCancelled("inference: cancelled");
  }
  const StageTimer copying;
  cuda::GraphExec* exec = graphs_.inputs->write(inputs, noise, continuation);
  copying.record(&FlowHistograms::copy_in, histograms_, also);
  // The current context is a property of the calling thread.
  check(calls_.cuCtxSetCurrent(graphs_.context), "cuCtxSetCurrent");
  check(calls_.cuGraphLaunch(exec, graphs_.stream), "cuGraphLaunch");
  check(calls_.cuStreamSynchronize(graphs_.stream), "cuStreamSynchronize");
  std::copy_n(graphs_.actions, actions.size(), actions.begin());
}

void CapturedPolicy::check(int code, const char* call) const {
  cuda::require_success(code, call, calls_.cuGetErrorName);
}

}  // namespace flux
