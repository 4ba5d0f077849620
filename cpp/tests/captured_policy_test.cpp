// A policy captured as one CUDA graph, on a fake driver.
#include "flux/captured_policy.hpp"

#include <array>
#include <thread>

#include "allocations.hpp"
#include "check.hpp"
#include "fake_cuda.hpp"

namespace flux::test {
namespace {

constexpr int kActionHorizon = 2;
constexpr int kActionDim = 3;

// actions = noise + state, computed when the graph runs.
struct Card {
  std::array<float, kActionDim> state{};
  std::array<float, kActionHorizon * kActionDim> noise{};
  std::array<float, kActionHorizon * kActionDim> actions{};
  cuda::Context context;
  cuda::Stream stream;
  cuda::GraphExec exec;

  Card() {
    exec.data = this;
    exec.run = [](void* data) {
      auto& card = *static_cast<Card*>(data);
      for (std::size_t i = 0; i < card.actions.size(); ++i) {
        card.actions[i] = card.noise[i] + card.state[i % kActionDim];
      }
    };
  }

  CapturedGraph graph() {
    return {.driver = FLUX_FAKE_CUDA,
            .context = &context,
            .stream = &stream,
            .exec = &exec,
            .inputs = {{.info = {.name = "state", .shape = {1, kActionDim}}, .host = state.data()}},
            .noise = noise.data(),
            .actions = actions.data(),
            .action_horizon = kActionHorizon,
            .action_dim = kActionDim};
  }
};

struct Call {
  std::array<float, kActionDim> state{1, 2, 3};
  std::array<std::int64_t, 2> shape{1, kActionDim};
  std::array<float, kActionHorizon * kActionDim> noise{10, 20, 30, 40, 50, 60};
  std::array<float, kActionHorizon * kActionDim> actions{};
  std::array<TensorView, 1> inputs{
      TensorView{.name = "state", .dtype = DType::kFloat32, .shape = shape, .data = state.data()}};

  void infer(CapturedPolicy& policy) { policy.infer(inputs, noise, actions); }
};

void a_launch_answers_with_the_inputs_of_this_call() {
  Card card;
  CapturedPolicy policy(card.graph());
  Call call;
  call.infer(policy);
  CHECK_EQUAL(call.actions[0], 11.0F);
  CHECK_EQUAL(call.actions[5], 63.0F);
  call.state[0] = 5;
  call.noise[0] = 0;
  call.infer(policy);
  CHECK_EQUAL(call.actions[0], 5.0F);
  CHECK_EQUAL(policy.histograms().inference.count(), 2U);
  CHECK_EQUAL(policy.histograms().copy_in.count(), 2U);
  CHECK_EQUAL(policy.histograms().step.count(), 0U);
}

void each_thread_makes_the_context_its_own() {
  Card card;
  CapturedPolicy policy(card.graph());
  Call call;
  std::thread([&] { call.infer(policy); }).join();
  CHECK_EQUAL(call.actions[0], 11.0F);
}

void nothing_is_allocated_in_an_inference() {
  Card card;
  CapturedPolicy policy(card.graph());
  Call call;
  call.infer(policy);
  const std::size_t before = num_allocations();
  call.infer(policy);
  CHECK_EQUAL(num_allocations(), before);
}

void each_error_names_its_call_and_code() {
  for (const char* name : {"cuCtxSetCurrent", "cuGraphLaunch", "cuStreamSynchronize"}) {
    Card card;
    const std::string wanted = name;
    card.context.code = wanted == "cuCtxSetCurrent" ? 700 : 0;
    card.exec.code = wanted == "cuGraphLaunch" ? 700 : 0;
    card.stream.code = wanted == "cuStreamSynchronize" ? 700 : 0;
    CapturedPolicy policy(card.graph());
    Call call;
    const std::string message = message_of<std::runtime_error>([&] { call.infer(policy); });
    CHECK_EQUAL(message,
                wanted + ": expected success, got CUDA error 700 (CUDA_ERROR_ILLEGAL_ADDRESS)");
    CHECK_EQUAL(call.actions[0], 0.0F);
  }
}

void an_input_of_another_shape_is_refused_by_name() {
  Card card;
  CapturedPolicy policy(card.graph());
  Call call;
  call.shape = {kActionDim, 1};
  const auto message = message_of<std::invalid_argument>([&] { call.infer(policy); });
  CHECK_EQUAL(message, "state: expected float32 (1, 3), got float32 (3, 1)");
}

void a_chunk_cannot_continue_another_one() {
  Card card;
  CapturedPolicy policy(card.graph());
  Call call;
  const ContinuationSettings settings{.method = ContinuationMethod::kGuidance};
  const auto infer = [&](int prefix_len) {
    const Continuation continuation{
        .settings = &settings, .previous = call.noise, .prefix_len = prefix_len};
    return message_of<std::invalid_argument>([&] {
      policy.infer(call.inputs, call.noise, call.actions, nullptr, nullptr, &continuation);
    });
  };
  CHECK(!policy.can_continue());
  CHECK_EQUAL(infer(1),
              "continuation: expected a policy whose Euler steps run one by one, got one that is "
              "captured as a single launch. Use another engine, or a mode other than rtc");
  CHECK_EQUAL(infer(0), "");
}

void a_graph_without_memory_or_driver_is_refused() {
  Card card;
  CapturedGraph graph = card.graph();
  graph.noise = nullptr;
  std::string message = message_of<std::invalid_argument>([&] { CapturedPolicy policy(graph); });
  CHECK_CONTAINS(message, "captured graph");
  graph = card.graph();
  graph.driver = "/nowhere/libcuda.so.1";
  message = message_of<EngineUnavailable>([&] { CapturedPolicy policy(graph); });
  CHECK_CONTAINS(message, "cannot be loaded");
  graph.driver = FLUX_FAKE_ONNXRUNTIME;
  message = message_of<EngineUnavailable>([&] { CapturedPolicy policy(graph); });
  CHECK_CONTAINS(message,
                 "a driver with cuGraphLaunch, got one without it. Update NVIDIA's driver");
}

void the_owner_lives_as_long_as_the_policy() {
  Card card;
  CapturedGraph graph = card.graph();
  auto owner = std::make_shared<int>(1);
  const std::weak_ptr<int> watched = owner;
  graph.owner = std::move(owner);
  {
    const CapturedPolicy policy(std::move(graph));
    CHECK(!watched.expired());
  }
  CHECK(watched.expired());
}

}  // namespace

std::vector<Case> captured_policy_cases() {
  return {
      {"a launch answers with the inputs of this call",
       a_launch_answers_with_the_inputs_of_this_call},
      {"each thread makes the context its own", each_thread_makes_the_context_its_own},
      {"nothing is allocated in an inference", nothing_is_allocated_in_an_inference},
      {"each error names its call and code", each_error_names_its_call_and_code},
      {"an input of another shape is refused by name",
       an_input_of_another_shape_is_refused_by_name},
      {"a chunk cannot continue another one", a_chunk_cannot_continue_another_one},
      {"a graph without memory or driver is refused", a_graph_without_memory_or_driver_is_refused},
      {"the owner lives as long as the policy", the_owner_lives_as_long_as_the_policy},
  };
}

}  // namespace flux::test
