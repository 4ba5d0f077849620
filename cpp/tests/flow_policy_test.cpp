#include "flux/flow_policy.hpp"

#include "allocations.hpp"
#include "check.hpp"
#include "toy_policy.hpp"

namespace flux::test {
namespace {

using Error = std::invalid_argument;

void actions_are_those_of_n_euler_steps() {
  for (const int num_inference_steps : {1, 2, 3, 4, 10}) {
    const auto policy = toy_policy({}, num_inference_steps);
    const ToyInputs inputs;
    std::vector<float> actions(policy->num_action_values());
    policy->infer(inputs.views(), inputs.noise, actions);
    for (std::size_t i = 0; i < actions.size(); ++i) {
      CHECK_EQUAL(actions[i],
                  toy_action(1.0F, inputs.observation[i % kActionDim], num_inference_steps));
    }
    CHECK(inputs.noise == std::vector<float>(kActionHorizon * kActionDim, 1.0F));
    CHECK_EQUAL(policy->histograms().step.count(), static_cast<std::uint64_t>(num_inference_steps));
    CHECK_EQUAL(policy->histograms().inference.count(), 1U);
  }
}

struct DevicePolicy {
  explicit DevicePolicy(int num_inference_steps) {
    const auto on_device = [this](std::unique_ptr<FakeEngine> graph) {
      return std::make_unique<FakeDeviceEngine>(device, std::move(graph), transfers);
    };
    policy = std::make_unique<FlowPolicy>(
        on_device(toy_prefix()),
        on_device(toy_denoise({}, {floats("state", {1, 3})}, num_inference_steps)),
        num_inference_steps);
  }

  std::shared_ptr<FakeDevice> device = std::make_shared<FakeDevice>();
  std::shared_ptr<FakeDeviceEngine::Transfers> transfers =
      std::make_shared<FakeDeviceEngine::Transfers>();
  std::unique_ptr<FlowPolicy> policy;
};

void on_a_device_the_host_touches_only_inputs_and_actions() {
  for (const int num_inference_steps : {1, 2, 3, 10}) {
    const DevicePolicy on_device(num_inference_steps);
    const auto on_host = toy_policy({}, num_inference_steps);
    std::vector<float> actions(on_host->num_action_values());
    std::vector<float> expected(on_host->num_action_values());
    ToyInputs inputs;
    const std::vector<float> state(3);
    const std::vector<std::int64_t> state_shape{1, 3};
    for (int inference = 0; inference < 3; ++inference) {
      inputs.observation[0] += 1.0F;
      inputs.noise[3] -= 0.5F;
      *on_device.transfers = {};
      std::vector<TensorView> views = inputs.views();
      on_host->infer(views, inputs.noise, expected);
      views.push_back({"state", DType::kFloat32, state_shape, state.data()});
      on_device.policy->infer(views, inputs.noise, actions);
      CHECK(actions == expected);
      // The observation, the first step's noise and times, and the state for up to four bindings,
      // however many steps there are.
      CHECK_EQUAL(on_device.transfers->to_device, 3 + std::min(num_inference_steps, 4));
      CHECK_EQUAL(on_device.transfers->to_host, 1);
    }
  }
}

void a_host_engine_refuses_device_memory() {
  const auto device = std::make_shared<FakeDevice>();
  const auto transfers = std::make_shared<FakeDeviceEngine::Transfers>();
  CHECK_CONTAINS(message_of<Error>([&] {
                   FlowPolicy(std::make_unique<FakeDeviceEngine>(device, toy_prefix(), transfers),
                              toy_denoise(), kNumInferenceSteps);
                 }),
                 "past_key_0: expected host memory, got device memory");
}

void time_runs_from_one_towards_zero() {
  std::vector<float> times;
  Hooks hooks;
  hooks.on_step = [&](const Memory& memory) { times.push_back(memory.find("t")->second[0]); };
  const auto policy = toy_policy(hooks);
  const ToyInputs inputs;
  std::vector<float> actions(policy->num_action_values());
  policy->infer(inputs.views(), inputs.noise, actions);
  CHECK(times == (std::vector{1.0F, 0.75F, 0.5F, 0.25F}));
}

void keys_and_values_are_shared_and_the_halves_alternate() {
  std::vector<const float*> keys;
  std::vector<std::pair<const float*, const float*>> halves;
  Hooks hooks;
  hooks.on_step = [&](const Memory& memory) {
    keys.push_back(memory.find("past_key_0")->second);
    halves.emplace_back(memory.find("x_t")->second, memory.find("x_next")->second);
  };
  const auto policy = toy_policy(hooks);
  const ToyInputs inputs;
  std::vector<float> actions(policy->num_action_values());
  policy->infer(inputs.views(), inputs.noise, actions);
  CHECK_EQUAL(keys[0], keys[1]);
  for (std::size_t step = 0; step + 1 < kNumInferenceSteps; ++step) {
    CHECK(halves[step].first != halves[step].second);
    CHECK_EQUAL(halves[step].second, halves[step + 1].first);
  }
}

void inference_allocates_nothing() {
  for (const int num_inference_steps : {1, 2, 3, 10}) {
    std::vector<std::size_t> at_step;
    at_step.reserve(64);
    Hooks hooks;
    hooks.on_step = [&](const Memory&) { at_step.push_back(num_allocations()); };
    const auto policy = toy_policy(hooks, num_inference_steps);
    const ToyInputs inputs;
    const std::vector<TensorView> views = inputs.views();
    std::vector<float> actions(policy->num_action_values());
    const std::size_t before = num_allocations();
    policy->infer(views, inputs.noise, actions);
    CHECK_EQUAL(num_allocations(), before);
    CHECK(at_step ==
          std::vector<std::size_t>(static_cast<std::size_t>(num_inference_steps), before));
  }
}

void wrong_inputs_are_named() {
  const auto policy = toy_policy();
  std::vector<float> actions(policy->num_action_values());
  const auto message = [&](const ToyInputs& inputs, std::vector<TensorView> views) {
    return message_of<Error>([&] { policy->infer(views, inputs.noise, actions); });
  };
  ToyInputs inputs;
  CHECK_CONTAINS(message(inputs, {}), "observation: expected float32 (1, 2), got no such input");
  std::vector<TensorView> views = inputs.views();
  views[0].dtype = DType::kInt64;
  CHECK_CONTAINS(message(inputs, views), "expected float32 (1, 2), got int64 (1, 2)");
  views[0].name = "image";
  CHECK_CONTAINS(message(inputs, views), "image: expected one of the inputs observation");
  inputs.shape = {2};
  CHECK_CONTAINS(message(inputs, inputs.views()), "got float32 (2,)");
  inputs.shape = {1, 2};
  inputs.noise.pop_back();
  CHECK_CONTAINS(message(inputs, inputs.views()), "noise: expected 12 values, got 11");
}

void an_extra_denoise_input_is_a_user_input() {
  const FlowPolicy policy(toy_prefix(), toy_denoise({}, {floats("state", {1, 3})}),
                          kNumInferenceSteps);
  CHECK_EQUAL(policy.user_inputs().size(), 2U);
  CHECK_EQUAL(policy.user_inputs()[1].name, "state");
}

void graphs_that_do_not_fit_are_refused() {
  const auto message = [](std::unique_ptr<Engine> prefix, std::unique_ptr<Engine> denoise,
                          int num_inference_steps) {
    return message_of<Error>(
        [&] { FlowPolicy(std::move(prefix), std::move(denoise), num_inference_steps); });
  };
  const auto none = [](const Memory&) {};
  const auto engine = [&](std::vector<TensorInfo> inputs, std::vector<TensorInfo> outputs) {
    return std::make_unique<FakeEngine>(Graph{std::move(inputs), std::move(outputs), none});
  };
  CHECK_CONTAINS(message(toy_prefix(), toy_denoise(), 0), "num_inference_steps");
  CHECK_CONTAINS(message(toy_prefix(), engine({}, {}), 1), "x_t: expected an input");
  CHECK_CONTAINS(message(toy_prefix(), engine({floats("x_t", {2, 3})}, {}), 1),
                 "float32 (1, H, A), got float32 (2, 3)");
  CHECK_CONTAINS(message(toy_prefix(), engine({floats("x_t", {1, 6, 2}), floats("t", {1})}, {}), 1),
                 "t of the denoise graph: expected float32 (1, 6), got float32 (1,)");
  CHECK_CONTAINS(message(engine({}, {floats("past_key_0", {1, 9})}), toy_denoise(), 1),
                 "past_key_0 of the denoise graph: expected float32 (1, 9)");
  CHECK_CONTAINS(message(engine({floats("a", {1})}, {floats("a", {1})}), toy_denoise(), 1),
                 "a of the prefix graph");
}

}  // namespace

std::vector<Case> flow_policy_cases() {
  return {
      {"actions are those of N Euler steps", actions_are_those_of_n_euler_steps},
      {"time runs from one towards zero", time_runs_from_one_towards_zero},
      {"keys and values are shared and the halves alternate",
       keys_and_values_are_shared_and_the_halves_alternate},
      {"on a device the host touches only inputs and actions",
       on_a_device_the_host_touches_only_inputs_and_actions},
      {"a host engine refuses device memory", a_host_engine_refuses_device_memory},
      {"inference allocates nothing", inference_allocates_nothing},
      {"wrong inputs are named", wrong_inputs_are_named},
      {"an extra denoise input is a user input", an_extra_denoise_input_is_a_user_input},
      {"graphs that do not fit are refused", graphs_that_do_not_fit_are_refused},
  };
}

}  // namespace flux::test
