#include "flux/onnxruntime_engine.hpp"

#include <dlfcn.h>

#include "allocations.hpp"
#include "check.hpp"
#include "toy_policy.hpp"

namespace flux::test {
namespace {

std::shared_ptr<const OrtRuntime> fake_runtime() {
  return std::make_shared<const OrtRuntime>(FLUX_FAKE_ONNXRUNTIME);
}

std::size_t num_allocated_on_device() {
  void* handle = ::dlopen(FLUX_FAKE_ONNXRUNTIME, RTLD_NOW | RTLD_LOCAL);
  return reinterpret_cast<std::size_t (*)()>(::dlsym(handle, "flux_fake_num_allocated"))();
}

std::unique_ptr<OrtEngine> engine(const std::string& path, OrtEngineOptions options) {
  options.driver = FLUX_FAKE_ONNXRUNTIME;
  return std::make_unique<OrtEngine>(fake_runtime(), path, options);
}

std::unique_ptr<FlowPolicy> policy(OrtProvider prefix, OrtProvider denoise) {
  return std::make_unique<FlowPolicy>(engine("prefix.onnx", {.provider = prefix}),
                                      engine("denoise.onnx", {.provider = denoise}),
                                      kNumInferenceSteps);
}

void require_right_actions(FlowPolicy& opened) {
  ToyInputs inputs;
  std::vector<float> actions(opened.num_action_values());
  for (int inference = 0; inference < 3; ++inference) {
    inputs.observation[0] += 1.0F;
    inputs.noise[0] += 1.0F;
    opened.infer(inputs.views(), inputs.noise, actions);
    for (std::size_t i = 0; i < actions.size(); ++i) {
      CHECK_EQUAL(actions[i], toy_action(inputs.noise[i], inputs.observation[i % kActionDim]));
    }
  }
}

void actions_are_the_same_on_the_cpu_and_on_a_device() {
  for (const OrtProvider provider : {OrtProvider::kCpu, OrtProvider::kCuda}) {
    require_right_actions(*policy(provider, provider));
  }
}

void a_chunk_continues_another_one_the_same_way_on_the_cpu_and_on_a_device() {
  const ToyInputs inputs;
  const std::vector<float> previous(kActionHorizon * kActionDim, 0.5F);
  for (const auto method : {ContinuationMethod::kPrefix, ContinuationMethod::kGuidance}) {
    const ContinuationSettings settings{.method = method, .delays = {0, 2}};
    const Continuation continuation{.settings = &settings, .previous = previous, .prefix_len = 2};
    const auto infer = [&](FlowPolicy& opened) {
      std::vector<float> actions(opened.num_action_values());
      opened.infer(inputs.views(), inputs.noise, actions, nullptr, nullptr, &continuation);
      return actions;
    };
    const std::vector<float> expected = infer(*toy_policy());
    for (const OrtProvider provider : {OrtProvider::kCpu, OrtProvider::kCuda}) {
      CHECK(infer(*policy(provider, provider)) == expected);
    }
  }
}

void what_passes_between_the_graphs_is_allocated_on_the_device() {
  const auto on_device = policy(OrtProvider::kCuda, OrtProvider::kCuda);
  // past_key_0, x and t twice; copies of the host's inputs, and of x and t of a chunk that
  // continues another one.
  const std::size_t expected = 5 + 3 + 2;
  CHECK_EQUAL(num_allocated_on_device(), expected);
  const auto on_cpu = policy(OrtProvider::kCpu, OrtProvider::kCpu);
  CHECK_EQUAL(num_allocated_on_device(), expected);
}

void memory_of_the_device_is_freed_with_the_engine() {
  {
    const auto on_device = policy(OrtProvider::kCuda, OrtProvider::kCuda);
  }
  CHECK_EQUAL(num_allocated_on_device(), 0U);
}

void a_denoise_graph_on_the_cpu_needs_a_prefix_on_the_cpu() {
  CHECK_CONTAINS(
      message_of<std::invalid_argument>([] { policy(OrtProvider::kCuda, OrtProvider::kCpu); }),
      "denoise.onnx: past_key_0: expected host memory, got device memory");
  require_right_actions(*policy(OrtProvider::kCpu, OrtProvider::kCuda));
}

void an_unavailable_provider_differs_from_a_refused_graph() {
  using Unavailable = EngineUnavailable;
  CHECK_CONTAINS(
      message_of<Unavailable>([] { engine("p.onnx", {.provider = OrtProvider::kTensorRt}); }),
      "TensorRT provider: libnvinfer.so.10");
  CHECK_CONTAINS(
      message_of<Unavailable>([] {
        engine("p.onnx", {.provider = OrtProvider::kCuda, .provider_options = {{"colour", "red"}}});
      }),
      "CUDA provider: unknown provider option");
  engine("p.onnx", {.provider = OrtProvider::kCuda, .provider_options = {{"known", "1"}}});
  CHECK_CONTAINS(message_of<Unavailable>([] {
                   OrtEngine(fake_runtime(), "p.onnx",
                             {.provider = OrtProvider::kCuda, .driver = "no.so"});
                 }),
                 "no.so: cannot be loaded");
  CHECK_CONTAINS(message_of<std::runtime_error>(
                     [] { engine("partly_on_cpu.onnx", {.provider = OrtProvider::kCuda}); }),
                 "partly_on_cpu.onnx: nodes are assigned to the CPU");
  CHECK_CONTAINS(message_of<std::invalid_argument>(
                     [] { engine("p.onnx", {.provider_options = {{"known", "1"}}}); }),
                 "provider_options: expected none on the CPU, got known");
  CHECK_CONTAINS(message_of<std::invalid_argument>([] { engine("p.onnx", {.num_threads = 0}); }),
                 "num_threads: expected at least 1, got 0");
}

void cuda_runs_what_tensorrt_declines() {
  const OrtEngineOptions options{.provider = OrtProvider::kTensorRt,
                                 .provider_options = {{"known", "1"}},
                                 .cuda_options = {{"known", "1"}}};
  engine("declined_by_tensorrt.onnx", options);
  CHECK_CONTAINS(message_of<std::runtime_error>(
                     [] { engine("declined_by_tensorrt.onnx", {.provider = OrtProvider::kCuda}); }),
                 "no provider but the CPU's has an operator");
  CHECK_CONTAINS(message_of<EngineUnavailable>([&options] {
                   OrtEngineOptions wrong = options;
                   wrong.cuda_options = {{"colour", "red"}};
                   engine("p.onnx", wrong);
                 }),
                 "CUDA provider: unknown provider option");
}

// Counts flux's own code only; allocations inside the runtime's library are not seen.
void a_step_allocates_nothing() {
  for (const OrtProvider provider : {OrtProvider::kCpu, OrtProvider::kCuda}) {
    const auto denoise = engine("denoise.onnx", {.provider = provider});
    std::vector<BoundBuffer> bound;
    for (const auto& infos : {denoise->inputs(), denoise->outputs()}) {
      for (const TensorInfo& info : infos) {
        bound.push_back({info.name, denoise->allocate(info.num_bytes())});
      }
    }
    std::vector<float> noise(64);
    bound.front().memory = {.data = noise.data()};
    const std::size_t binding = denoise->bind(bound);
    const std::size_t before = num_allocations();
    const std::size_t before_on_device = num_allocated_on_device();
    for (int step = 0; step < 10; ++step) {
      denoise->upload(binding);
      denoise->run(binding);
    }
    CHECK_EQUAL(num_allocations(), before);
    CHECK_EQUAL(num_allocated_on_device(), before_on_device);
  }
}

}  // namespace

std::vector<Case> onnxruntime_engine_cases() {
  return {
      {"actions are the same on the CPU and on a device",
       actions_are_the_same_on_the_cpu_and_on_a_device},
      {"a chunk continues another one the same way on the cpu and on a device",
       a_chunk_continues_another_one_the_same_way_on_the_cpu_and_on_a_device},
      {"what passes between the graphs is allocated on the device",
       what_passes_between_the_graphs_is_allocated_on_the_device},
      {"memory of the device is freed with the engine",
       memory_of_the_device_is_freed_with_the_engine},
      {"a denoise graph on the CPU needs a prefix on the CPU",
       a_denoise_graph_on_the_cpu_needs_a_prefix_on_the_cpu},
      {"an unavailable provider differs from a refused graph",
       an_unavailable_provider_differs_from_a_refused_graph},
      {"CUDA runs what TensorRT declines", cuda_runs_what_tensorrt_declines},
      {"a step allocates nothing", a_step_allocates_nothing},
  };
}

}  // namespace flux::test
