#include <stdexcept>

#include "ort_session.hpp"

namespace flux::ort {
namespace {

// Throws EngineUnavailable("what: message") unless `status` is null.
void check_available(const OrtRuntime& runtime, Status* status, const std::string& what) {
  try {
    runtime.check(status, what);
  } catch (const std::runtime_error& error) {
    throw EngineUnavailable(error.what());
  }
}

// Both providers have the same four functions under different names.
template <typename Options, typename Create, typename Update, typename Append>
void append_provider(const OrtRuntime& runtime, SessionOptions* session_options,
                     const std::map<std::string, std::string>& values, const std::string& name,
                     Create create, Update update, Append append, void (*release)(Options*)) {
  std::vector<const char*> keys;
  std::vector<const char*> texts;
  for (const auto& [key, value] : values) {
    keys.push_back(key.c_str());
    texts.push_back(value.c_str());
  }
  Options* raw = nullptr;
  check_available(runtime, create(&raw), name);
  const Owner<Options> options(raw, release);
  check_available(runtime, update(raw, keys.data(), texts.data(), keys.size()), name);
  check_available(runtime, append(session_options, raw), name);
}

void append_cuda(const OrtRuntime& runtime, SessionOptions* session_options,
                 const OrtEngineOptions::Values& values) {
  const Calls& calls = runtime.calls();
  append_provider(runtime, session_options, values, "CUDA provider",
                  calls.CreateCUDAProviderOptions, calls.UpdateCUDAProviderOptions,
                  calls.SessionOptionsAppendExecutionProvider_CUDA_V2,
                  calls.ReleaseCUDAProviderOptions);
}

void append_tensorrt(const OrtRuntime& runtime, SessionOptions* session_options,
                     const OrtEngineOptions::Values& values) {
  const Calls& calls = runtime.calls();
  append_provider(runtime, session_options, values, "TensorRT provider",
                  calls.CreateTensorRTProviderOptions, calls.UpdateTensorRTProviderOptions,
                  calls.SessionOptionsAppendExecutionProvider_TensorRT_V2,
                  calls.ReleaseTensorRTProviderOptions);
}

// A provider is asked for each node in the order of this list.
void append_providers(const OrtRuntime& runtime, SessionOptions* session_options,
                      const OrtEngineOptions& options) {
  if (options.provider == OrtProvider::kTensorRt) {
    append_tensorrt(runtime, session_options, options.provider_options);
    append_cuda(runtime, session_options, options.cuda_options);
  } else {
    append_cuda(runtime, session_options, options.provider_options);
  }
}

}  // namespace

Owner<SessionOptions> make_options(const OrtRuntime& runtime, const std::string& path,
                                   const OrtEngineOptions& options) {
  if (options.num_threads < 1) {
    throw std::invalid_argument(
        expected_got("num_threads", "at least 1", std::to_string(options.num_threads)));
  }
  const Calls& calls = runtime.calls();
  SessionOptions* raw = nullptr;
  runtime.check(calls.CreateSessionOptions(&raw), path);
  Owner<SessionOptions> owner(raw, calls.ReleaseSessionOptions);
  runtime.check(calls.SetSessionGraphOptimizationLevel(raw, kEnableAllOptimizations), path);
  runtime.check(calls.SetIntraOpNumThreads(raw, options.num_threads), path);
  // Threads that keep spinning after a run would take CPU time from the control thread and from the
  // other graph.
  runtime.check(calls.AddSessionConfigEntry(raw, "session.force_spinning_stop", "1"), path);
  if (options.provider != OrtProvider::kCpu) {
    append_providers(runtime, raw, options);
    runtime.check(calls.AddSessionConfigEntry(raw, "session.disable_cpu_ep_fallback", "1"), path);
  } else if (!options.provider_options.empty()) {
    throw std::invalid_argument(expected_got("provider_options", "none on the CPU",
                                             options.provider_options.begin()->first));
  }
  return owner;
}

Owner<MemoryInfo> make_memory_info(const OrtRuntime& runtime, bool is_on_device,
                                   const std::string& where) {
  const Calls& calls = runtime.calls();
  MemoryInfo* raw = nullptr;
  runtime.check(is_on_device ? calls.CreateMemoryInfo(kCudaMemory, kDeviceAllocator, kFirstDevice,
                                                      kDefaultMemory, &raw)
                             : calls.CreateCpuMemoryInfo(kDeviceAllocator, kDefaultMemory, &raw),
                where);
  return {raw, calls.ReleaseMemoryInfo};
}

}  // namespace flux::ort
