// A library with ONNX Runtime's C API, the two graphs of the toy policy and a fake accelerator: the
// host must not access its memory, and host inputs are copied there when they are bound, as ONNX
// Runtime does. It stands in for a GPU, and its driver, on machines without one.
#include <algorithm>
#include <array>
#include <string>

#include "flux/cuda_abi.hpp"
#include "flux/ort_abi.hpp"
#include "toy_policy.hpp"

namespace flux::ort {

struct Status {
  std::string message;
};
struct Env {};
struct SessionOptions {
  bool is_on_device = false;
  std::vector<std::string> providers = {};
  bool may_use_cpu = true;
};
struct Session {
  test::Graph graph;
  bool is_on_device = false;
};
struct MemoryInfo {
  bool is_on_device = false;
};
struct Allocator {};
struct TypeInfo {
  const TensorInfo* info = nullptr;
};
struct TensorTypeAndShapeInfo : TypeInfo {};
struct Value {
  float* data = nullptr;
  std::size_t count = 0;
  bool is_on_device = false;
};
struct IoBinding {
  struct Download {
    const float* device;
    float* host;
    std::size_t count;
  };
  bool is_on_device = false;
  test::Memory bound = {};
  std::map<std::string, std::vector<float>> staged = {};
  std::vector<Download> downloads = {};
};
struct CudaOptions {};
struct TensorRtOptions {
  bool is_installed = false;
};

namespace fake {

test::FakeDevice& device() {
  static test::FakeDevice instance;
  return instance;
}

Status* error(const char* message) { return new Status{message}; }

const char* GetErrorMessage(const Status* status) { return status->message.c_str(); }
Status* CreateEnv(int, const char*, Env** env) { return *env = new Env, nullptr; }
Status* CreateSessionOptions(SessionOptions** out) { return *out = new SessionOptions, nullptr; }
Status* SetSessionGraphOptimizationLevel(SessionOptions*, int) { return nullptr; }
Status* SetIntraOpNumThreads(SessionOptions*, int) { return nullptr; }
Status* AddSessionConfigEntry(SessionOptions* options, const char* key, const char* value) {
  const bool is_it = std::string(key) == "session.disable_cpu_ep_fallback";
  if (is_it && std::string(value) == "1") options->may_use_cpu = false;
  return nullptr;
}

Status* CreateSession(const Env*, const char* path, const SessionOptions* options, Session** out) {
  const std::string name(path);
  if (name.ends_with("partly_on_cpu.onnx") && options->is_on_device && !options->may_use_cpu) {
    return error("nodes are assigned to the CPU, but fallback is disabled");
  }
  const std::vector<std::string> both{"TensorRT", "CUDA"};
  if (name.ends_with("declined_by_tensorrt.onnx") && options->providers != both) {
    return error("no provider but the CPU's has an operator");
  }
  *out = new Session{
      name.ends_with("prefix.onnx") ? test::toy_prefix_graph() : test::toy_denoise_graph(),
      options->is_on_device};
  return nullptr;
}

const std::vector<TensorInfo>& infos(const Session* session, bool is_input) {
  return is_input ? session->graph.inputs : session->graph.outputs;
}
Status* SessionGetInputCount(const Session* session, std::size_t* count) {
  return *count = infos(session, true).size(), nullptr;
}
Status* SessionGetOutputCount(const Session* session, std::size_t* count) {
  return *count = infos(session, false).size(), nullptr;
}
Status* SessionGetInputTypeInfo(const Session* session, std::size_t index, TypeInfo** out) {
  return *out = new TypeInfo{&infos(session, true)[index]}, nullptr;
}
Status* SessionGetOutputTypeInfo(const Session* session, std::size_t index, TypeInfo** out) {
  return *out = new TypeInfo{&infos(session, false)[index]}, nullptr;
}
char* copy_of(const std::string& text) {
  char* copy = new char[text.size() + 1];
  std::copy_n(text.c_str(), text.size() + 1, copy);
  return copy;
}
Status* SessionGetInputName(const Session* session, std::size_t index, Allocator*, char** out) {
  return *out = copy_of(infos(session, true)[index].name), nullptr;
}
Status* SessionGetOutputName(const Session* session, std::size_t index, Allocator*, char** out) {
  return *out = copy_of(infos(session, false)[index].name), nullptr;
}
Status* CastTypeInfoToTensorInfo(const TypeInfo* type, const TensorTypeAndShapeInfo** out) {
  return *out = static_cast<const TensorTypeAndShapeInfo*>(type), nullptr;
}
Status* GetTensorElementType(const TensorTypeAndShapeInfo*, int* out) {
  return *out = kElementFloat, nullptr;
}
Status* GetDimensionsCount(const TensorTypeAndShapeInfo* info, std::size_t* count) {
  return *count = info->info->shape.size(), nullptr;
}
Status* GetDimensions(const TensorTypeAndShapeInfo* info, std::int64_t* shape, std::size_t count) {
  std::copy_n(info->info->shape.begin(), count, shape);
  return nullptr;
}

Status* CreateMemoryInfo(const char* name, int, int, int, MemoryInfo** out) {
  if (std::string(name) != kCudaMemory) return error("no such memory");
  return *out = new MemoryInfo{true}, nullptr;
}
Status* CreateCpuMemoryInfo(int, int, MemoryInfo** out) { return *out = new MemoryInfo, nullptr; }
Status* CreateAllocator(const Session* session, const MemoryInfo* info, Allocator** out) {
  if (!session->is_on_device || !info->is_on_device) return error("no such allocator");
  return *out = new Allocator, nullptr;
}
Allocator host_allocator;
Status* GetAllocatorWithDefaultOptions(Allocator** out) { return *out = &host_allocator, nullptr; }
Status* AllocatorAlloc(Allocator*, std::size_t num_bytes, void** out) {
  return *out = device().allocate(num_bytes), nullptr;
}
Status* AllocatorFree(Allocator* allocator, void* memory) {
  if (allocator == &host_allocator) {
    delete[] static_cast<char*>(memory);
  } else {
    device().free(memory);
  }
  return nullptr;
}
Status* CreateTensorWithDataAsOrtValue(const MemoryInfo* info, void* data, std::size_t num_bytes,
                                       const std::int64_t*, std::size_t, int, Value** out) {
  *out = new Value{static_cast<float*>(data), num_bytes / sizeof(float), info->is_on_device};
  return nullptr;
}

Status* CreateIoBinding(Session* session, IoBinding** out) {
  return *out = new IoBinding{.is_on_device = session->is_on_device}, nullptr;
}
// Where the graph reads or writes a tensor: on the device if the session runs there.
float* place(IoBinding* binding, const char* name, const Value* value) {
  if (!binding->is_on_device) return value->data;
  if (value->is_on_device) return device().values(value->data);
  std::vector<float>& staged = binding->staged[name];
  staged.resize(value->count);
  return staged.data();
}
Status* BindInput(IoBinding* binding, const char* name, const Value* value) {
  if (value->is_on_device && !binding->is_on_device) return error("an input on a device");
  float* values = place(binding, name, value);
  if (values != value->data && !value->is_on_device) {
    std::copy_n(value->data, value->count, values);
  }
  binding->bound[name] = values;
  return nullptr;
}
Status* BindOutput(IoBinding* binding, const char* name, const Value* value) {
  if (value->is_on_device && !binding->is_on_device) return error("an output on a device");
  float* values = place(binding, name, value);
  if (values != value->data && !value->is_on_device) {
    binding->downloads.push_back({values, value->data, value->count});
  }
  binding->bound[name] = values;
  return nullptr;
}
Status* RunWithBinding(Session* session, const RunOptions*, const IoBinding* binding) {
  session->graph.compute(binding->bound);
  for (const IoBinding::Download& copy : binding->downloads) {
    std::copy_n(copy.device, copy.count, copy.host);
  }
  return nullptr;
}

Status* CreateCUDAProviderOptions(CudaOptions** out) { return *out = new CudaOptions, nullptr; }
Status* CreateTensorRTProviderOptions(TensorRtOptions** out) {
  return *out = new TensorRtOptions, nullptr;
}
Status* update(const char* const* names, const char* const* values, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (std::string(names[i]) != "known" || std::string(values[i]) != "1") {
      return error("unknown provider option");
    }
  }
  return nullptr;
}
Status* UpdateCUDAProviderOptions(CudaOptions*, const char* const* names, const char* const* values,
                                  std::size_t count) {
  return update(names, values, count);
}
Status* UpdateTensorRTProviderOptions(TensorRtOptions* options, const char* const* names,
                                      const char* const* values, std::size_t count) {
  options->is_installed = count > 0;
  return update(names, values, count);
}
Status* SessionOptionsAppendExecutionProvider_CUDA_V2(SessionOptions* options, const CudaOptions*) {
  options->providers.emplace_back("CUDA");
  return options->is_on_device = true, nullptr;
}
Status* SessionOptionsAppendExecutionProvider_TensorRT_V2(SessionOptions* options,
                                                          const TensorRtOptions* given) {
  if (!given->is_installed) return error("libnvinfer.so.10: cannot open shared object file");
  options->providers.emplace_back("TensorRT");
  return options->is_on_device = true, nullptr;
}

void ReleaseEnv(Env* handle) { delete handle; }
void ReleaseStatus(Status* handle) { delete handle; }
void ReleaseMemoryInfo(MemoryInfo* handle) { delete handle; }
void ReleaseSession(Session* handle) { delete handle; }
void ReleaseValue(Value* handle) { delete handle; }
void ReleaseTypeInfo(TypeInfo* handle) { delete handle; }
void ReleaseSessionOptions(SessionOptions* handle) { delete handle; }
void ReleaseAllocator(Allocator* handle) { delete handle; }
void ReleaseIoBinding(IoBinding* handle) { delete handle; }
void ReleaseCUDAProviderOptions(CudaOptions* handle) { delete handle; }
void ReleaseTensorRTProviderOptions(TensorRtOptions* handle) { delete handle; }

const Api* get_api(std::uint32_t version) {
  static void* table[256] = {};
#define FLUX_FAKE_SLOT(name, slot, result, arguments) \
  table[slot] = reinterpret_cast<void*>(static_cast<result(*) arguments>(&name));
  FLUX_ORT_SLOTS(FLUX_FAKE_SLOT)
#undef FLUX_FAKE_SLOT
  return version == kApiVersion ? reinterpret_cast<const Api*>(table) : nullptr;
}
const char* get_version_string() { return "fake"; }

}  // namespace fake
}  // namespace flux::ort

extern "C" [[gnu::visibility("default")]] const flux::ort::ApiBase* OrtGetApiBase() {
  static const flux::ort::ApiBase base{&flux::ort::fake::get_api,
                                       &flux::ort::fake::get_version_string};
  return &base;
}

// Number of allocations in use on the device.
extern "C" [[gnu::visibility("default")]] std::size_t flux_fake_num_allocated() {
  return flux::ort::fake::device().num_allocated();
}

// The part of NVIDIA's driver that copies to the device. A copy is complete once its stream is
// synchronised.
namespace {

struct Pending {
  void* device;
  const float* host;
  std::size_t count;
};
std::array<Pending, 16> pending;
std::size_t num_pending = 0;
thread_local bool has_context = false;
int primary_context = 0;

}  // namespace

#define FLUX_EXPORT extern "C" [[gnu::visibility("default")]]

FLUX_EXPORT int cuInit(unsigned) { return 0; }
FLUX_EXPORT int cuDeviceGet(int* device, int ordinal) { return *device = 7, ordinal; }
FLUX_EXPORT int cuDevicePrimaryCtxRetain(flux::cuda::Context** context, int device) {
  *context = reinterpret_cast<flux::cuda::Context*>(&primary_context);
  return device == 7 ? 0 : 101;
}
FLUX_EXPORT int cuDevicePrimaryCtxRelease_v2(int device) { return device == 7 ? 0 : 101; }
FLUX_EXPORT int cuCtxSetCurrent(flux::cuda::Context* context) {
  has_context = reinterpret_cast<int*>(context) == &primary_context;
  return 0;
}
FLUX_EXPORT int cuMemcpyHtoDAsync_v2(std::uintptr_t device, const void* host, std::size_t size,
                                     flux::cuda::Stream*) {
  if (!has_context) return 201;
  pending.at(num_pending++) = {reinterpret_cast<void*>(device), static_cast<const float*>(host),
                               size / sizeof(float)};
  return 0;
}
FLUX_EXPORT int cuStreamSynchronize(flux::cuda::Stream*) {
  for (std::size_t i = 0; i < num_pending; ++i) {
    std::copy_n(pending[i].host, pending[i].count,
                flux::ort::fake::device().values(pending[i].device));
  }
  num_pending = 0;
  return 0;
}
FLUX_EXPORT int cuGetErrorName(int, const char** name) { return *name = "CUDA_ERROR", 0; }
