// Runs the network of an exported bundle on inputs of zeros, without Python.
//
//   run_bundle BUNDLE_DIR LIBONNXRUNTIME NUM_INFERENCE_STEPS
//
// LIBONNXRUNTIME is libonnxruntime.so of any ONNX Runtime from 1.19 on; the pip package contains
// one in onnxruntime/capi/.
#include <cstdlib>
#include <exception>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "flux/flow_policy.hpp"
#include "flux/onnxruntime_engine.hpp"

namespace {

void run(const std::string& bundle, const std::string& library, int num_inference_steps) {
  const auto runtime = std::make_shared<const flux::OrtRuntime>(library);
  const flux::OrtEngineOptions options;
  flux::FlowPolicy policy(
      std::make_unique<flux::OrtEngine>(runtime, bundle + "/prefix.onnx", options),
      std::make_unique<flux::OrtEngine>(runtime, bundle + "/denoise.onnx", options),
      num_inference_steps);

  std::vector<flux::Buffer> memory;
  std::vector<flux::TensorView> inputs;
  for (const flux::TensorInfo& info : policy.user_inputs()) {
    const flux::Buffer& zeros = memory.emplace_back(info.num_bytes());
    inputs.push_back({info.name, info.dtype, info.shape, zeros.data()});
  }
  const std::vector<float> noise(policy.num_action_values(), 0.0F);
  std::vector<float> actions(policy.num_action_values());
  policy.infer(inputs, noise, actions);

  std::cout << "ONNX Runtime " << runtime->version() << ", first of " << policy.action_horizon()
            << " actions:";
  for (int i = 0; i < policy.action_dim(); ++i) {
    std::cout << ' ' << actions[static_cast<std::size_t>(i)];
  }
  std::cout << "\ninference took " << policy.histograms().inference.max_s() * 1e3 << " ms\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: run_bundle BUNDLE_DIR LIBONNXRUNTIME NUM_INFERENCE_STEPS\n";
    return 2;
  }
  try {
    run(argv[1], argv[2], std::atoi(argv[3]));
  } catch (const std::exception& error) {
    std::cerr << "run_bundle: error: " << error.what() << '\n';
    return 1;
  }
  return 0;
}
