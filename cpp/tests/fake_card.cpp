// A library that stands in for NVIDIA's driver, as far as a launch plan uses it; see fake_card.hpp.
//
// An image is "FAKE ARCHITECTURE SYMBOL", or a real cubin, which is not looked into.
#include "fake_card.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

namespace {

constexpr int kInvalidValue = 1;
constexpr int kOutOfMemory = 2;
constexpr int kInvalidContext = 201;
constexpr int kInvalidImage = 200;
constexpr int kNoBinary = 209;
constexpr int kInvalidHandle = 400;
constexpr int kNotFound = 500;
constexpr int kIllegalAddress = 700;
constexpr int kOutOfResources = 701;
constexpr int kCaptureUnsupported = 900;

struct Node {
  enum class Kind { kToDevice, kToHost, kKernel } kind = Kind::kKernel;
  std::uintptr_t device = 0;
  void* host = nullptr;
  std::size_t size = 0;
  FakeKernel run = nullptr;
  unsigned grid[3] = {1, 1, 1};
  std::vector<unsigned char> parameters;
};

struct Function {
  std::string symbol;
  int max_shared = 48 * 1024;
};
struct Module {
  std::string symbol;
  std::vector<Function*> functions;
};
struct Graph {
  std::vector<Node> nodes;
};
struct Stream {
  Graph* capturing = nullptr;
  const Graph* launched = nullptr;
};
struct Refusal {
  int successes = 0;
  int code = 0;
};

struct Card {
  int major = 9;
  int minor = 0;
  std::size_t shared_limit = 232448;
  std::size_t total = std::size_t{1} << 30;
  std::size_t free = std::size_t{1} << 30;
  bool is_recording = true;
  std::string log;
  std::map<std::string, FakeKernel, std::less<>> kernels;
  std::map<std::string, Refusal, std::less<>> refusals;
  std::map<std::uintptr_t, std::size_t> device;
  std::map<void*, std::size_t> host;
  std::set<Module*> modules;
  std::set<Stream*> streams;
  std::set<Graph*> graphs;
  std::set<Graph*> execs;
  int contexts = 0;
};

Card card;
std::mutex mutex;
thread_local void* current = nullptr;
int primary = 0;  // its address is the context

// The number that a call returns, if a test wants it to fail.
int refusal(std::string_view name) {
  const auto found = card.refusals.find(name);
  if (found == card.refusals.end()) return 0;
  if (found->second.successes-- > 0) return 0;
  const int code = found->second.code;
  card.refusals.erase(found);
  return code;
}

template <typename... Words>
void record(const Words&... words) {
  if (!card.is_recording) return;
  std::ostringstream line;
  ((line << words << ' '), ...);
  std::string text = line.str();
  text.back() = '\n';
  card.log += text;
}

bool is_device(std::uintptr_t address, std::size_t size) {
  const auto above = card.device.upper_bound(address);
  if (above == card.device.begin()) return false;
  const auto& [begin, length] = *std::prev(above);
  return address + size <= begin + length;
}

bool is_host(const void* address, std::size_t size) {
  return std::ranges::any_of(card.host, [&](const auto& memory) {
    const auto* begin = static_cast<const char*>(memory.first);
    const auto* wanted = static_cast<const char*>(address);
    return wanted >= begin && wanted + size <= begin + memory.second;
  });
}

int run(const Node& node) {
  if (node.kind == Node::Kind::kKernel) {
    if (node.run != nullptr) node.run(node.grid, node.parameters.data());
    return 0;
  }
  if (!is_device(node.device, node.size)) return kIllegalAddress;
  auto* device = reinterpret_cast<void*>(node.device);
  if (node.kind == Node::Kind::kToDevice) std::memcpy(device, node.host, node.size);
  if (node.kind == Node::Kind::kToHost) std::memcpy(node.host, device, node.size);
  return 0;
}

// Runs at once, or becomes a part of the graph.
int enqueue(Stream* stream, Node node) {
  if (!card.streams.contains(stream)) return kInvalidHandle;
  if (stream->capturing == nullptr) return run(node);
  // Only page-locked memory can be copied by a graph.
  if (node.kind != Node::Kind::kKernel && !is_host(node.host, node.size)) return kInvalidValue;
  stream->capturing->nodes.push_back(std::move(node));
  return 0;
}

bool is_capturing() {
  return std::ranges::any_of(card.streams, [](const Stream* s) { return s->capturing != nullptr; });
}

const char* when(const Stream* stream) {
  return card.streams.contains(const_cast<Stream*>(stream)) && stream->capturing != nullptr
             ? "captured"
             : "now";
}

std::string hex(const std::vector<unsigned char>& bytes) {
  std::string text;
  char digits[3];
  for (const unsigned char byte : bytes) {
    std::snprintf(digits, sizeof(digits), "%02x", byte);
    text += digits;
  }
  return text.empty() ? "-" : text;
}

const char* name_of(int code) {
  switch (code) {
    case kInvalidValue:
      return "CUDA_ERROR_INVALID_VALUE";
    case kOutOfMemory:
      return "CUDA_ERROR_OUT_OF_MEMORY";
    case kInvalidImage:
      return "CUDA_ERROR_INVALID_IMAGE";
    case kInvalidContext:
      return "CUDA_ERROR_INVALID_CONTEXT";
    case kNoBinary:
      return "CUDA_ERROR_NO_BINARY_FOR_GPU";
    case kInvalidHandle:
      return "CUDA_ERROR_INVALID_HANDLE";
    case kNotFound:
      return "CUDA_ERROR_NOT_FOUND";
    case kIllegalAddress:
      return "CUDA_ERROR_ILLEGAL_ADDRESS";
    case kOutOfResources:
      return "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES";
    case kCaptureUnsupported:
      return "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED";
    default:
      return nullptr;
  }
}

int live(std::string_view kind) {
  const std::pair<std::string_view, std::size_t> counts[] = {
      {"device memory", card.device.size()},
      {"host memory", card.host.size()},
      {"modules", card.modules.size()},
      {"streams", card.streams.size()},
      {"graphs", card.graphs.size()},
      {"executables", card.execs.size()},
      {"contexts", static_cast<std::size_t>(card.contexts)}};
  std::size_t sum = 0;
  for (const auto& [name, count] : counts) {
    if (kind.empty() || kind == name) sum += count;
  }
  return static_cast<int>(sum);
}

}  // namespace

#define FAKE_API __attribute__((visibility("default")))
// The beginning of every call: it is refused if a test wants that, or needs a context.
#define FAKE_CALL(name, needs_context)                   \
  const std::lock_guard lock(mutex);                     \
  if (const int refused = refusal(name); refused != 0) { \
    record(name, "refused", refused);                    \
    return refused;                                      \
  }                                                      \
  if ((needs_context) && current == nullptr) return kInvalidContext

extern "C" {

FAKE_API int fake_reset(int major, int minor, std::size_t shared_limit, std::size_t total,
                        std::size_t free) {
  const std::lock_guard lock(mutex);
  const int alive = live("");
  card = Card{};
  card.major = major;
  card.minor = minor;
  card.shared_limit = shared_limit;
  card.total = total;
  card.free = free;
  return alive;
}

FAKE_API void fake_kernel(const char* symbol, FakeKernel run) {
  const std::lock_guard lock(mutex);
  card.kernels[symbol] = run;
}

FAKE_API void fake_refuse(const char* name, int successes, int code) {
  const std::lock_guard lock(mutex);
  card.refusals[name] = {successes, code};
}

FAKE_API void fake_record(bool is_on) {
  const std::lock_guard lock(mutex);
  card.is_recording = is_on;
}

FAKE_API const char* fake_log() { return card.log.c_str(); }

FAKE_API int fake_live(const char* kind) {
  const std::lock_guard lock(mutex);
  return live(kind);
}

FAKE_API int cuInit(unsigned flags) {
  FAKE_CALL("cuInit", false);
  return flags == 0 ? 0 : kInvalidValue;
}

FAKE_API int cuDeviceGetCount(int* count) {
  FAKE_CALL("cuDeviceGetCount", false);
  *count = 1;
  return 0;
}

FAKE_API int cuDeviceGet(int* device, int ordinal) {
  FAKE_CALL("cuDeviceGet", false);
  *device = ordinal;
  return 0;
}

FAKE_API int cuDeviceGetName(char* name, int size, int /*device*/) {
  FAKE_CALL("cuDeviceGetName", false);
  std::snprintf(name, static_cast<std::size_t>(size), "Fake card");
  return 0;
}

FAKE_API int cuDriverGetVersion(int* version) {
  *version = 13000;
  return 0;
}

FAKE_API int cuDeviceGetAttribute(int* value, int attribute, int /*device*/) {
  FAKE_CALL("cuDeviceGetAttribute", false);
  switch (attribute) {
    case 75:
      *value = card.major;
      return 0;
    case 76:
      *value = card.minor;
      return 0;
    case 97:
      *value = static_cast<int>(card.shared_limit);
      return 0;
    default:
      *value = 0;
      return 0;
  }
}

FAKE_API int cuDeviceTotalMem_v2(std::size_t* total, int /*device*/) {
  *total = card.total;
  return 0;
}

FAKE_API int cuDevicePrimaryCtxRetain(void** context, int /*device*/) {
  FAKE_CALL("cuDevicePrimaryCtxRetain", false);
  ++card.contexts;
  *context = &primary;
  record("cuDevicePrimaryCtxRetain");
  return 0;
}

FAKE_API int cuDevicePrimaryCtxRelease_v2(int /*device*/) {
  FAKE_CALL("cuDevicePrimaryCtxRelease_v2", false);
  --card.contexts;
  record("cuDevicePrimaryCtxRelease_v2");
  return 0;
}

FAKE_API int cuCtxSetCurrent(void* context) {
  FAKE_CALL("cuCtxSetCurrent", false);
  current = context;
  return 0;
}

FAKE_API int cuMemGetInfo_v2(std::size_t* num_free, std::size_t* total) {
  FAKE_CALL("cuMemGetInfo_v2", true);
  *num_free = card.free;
  *total = card.total;
  return 0;
}

FAKE_API int cuMemAlloc_v2(std::uintptr_t* address, std::size_t size) {
  FAKE_CALL("cuMemAlloc_v2", true);
  if (is_capturing()) return kCaptureUnsupported;
  if (size == 0) return kInvalidValue;
  if (size > card.free) return kOutOfMemory;
  card.free -= size;
  void* memory = std::aligned_alloc(512, (size + 511) / 512 * 512);
  std::memset(memory, 0xa5, size);  // what was there before
  *address = reinterpret_cast<std::uintptr_t>(memory);
  card.device[*address] = size;
  record("cuMemAlloc_v2", size, *address);
  return 0;
}

FAKE_API int cuMemFree_v2(std::uintptr_t address) {
  FAKE_CALL("cuMemFree_v2", true);
  const auto found = card.device.find(address);
  if (found == card.device.end()) return kInvalidValue;
  card.free += found->second;
  std::free(reinterpret_cast<void*>(address));
  card.device.erase(found);
  record("cuMemFree_v2", address);
  return 0;
}

FAKE_API int cuMemHostAlloc(void** memory, std::size_t size, unsigned /*flags*/) {
  FAKE_CALL("cuMemHostAlloc", true);
  if (is_capturing()) return kCaptureUnsupported;
  *memory = std::malloc(size);
  std::memset(*memory, 0xa5, size);
  card.host[*memory] = size;
  record("cuMemHostAlloc", size, *memory);
  return 0;
}

FAKE_API int cuMemFreeHost(void* memory) {
  FAKE_CALL("cuMemFreeHost", true);
  if (card.host.erase(memory) == 0) return kInvalidValue;
  std::free(memory);
  record("cuMemFreeHost", memory);
  return 0;
}

FAKE_API int cuMemsetD8Async(std::uintptr_t address, unsigned char value, std::size_t size,
                             Stream* /*stream*/) {
  FAKE_CALL("cuMemsetD8Async", true);
  if (!is_device(address, size)) return kInvalidValue;
  std::memset(reinterpret_cast<void*>(address), value, size);
  record("cuMemsetD8Async", address, static_cast<int>(value), size);
  return 0;
}

FAKE_API int cuMemcpyHtoDAsync_v2(std::uintptr_t device, const void* host, std::size_t size,
                                  Stream* stream) {
  FAKE_CALL("cuMemcpyHtoDAsync_v2", true);
  if (!is_device(device, size)) return kInvalidValue;
  record("cuMemcpyHtoDAsync_v2", device, host, size, when(stream));
  return enqueue(stream, {.kind = Node::Kind::kToDevice,
                          .device = device,
                          .host = const_cast<void*>(host),
                          .size = size,
                          .parameters = {}});
}

FAKE_API int cuMemcpyDtoHAsync_v2(void* host, std::uintptr_t device, std::size_t size,
                                  Stream* stream) {
  FAKE_CALL("cuMemcpyDtoHAsync_v2", true);
  if (!is_device(device, size)) return kInvalidValue;
  record("cuMemcpyDtoHAsync_v2", host, device, size, when(stream));
  return enqueue(stream, {.kind = Node::Kind::kToHost,
                          .device = device,
                          .host = host,
                          .size = size,
                          .parameters = {}});
}

FAKE_API int cuModuleLoadData(Module** module, const char* image) {
  FAKE_CALL("cuModuleLoadData", true);
  if (is_capturing()) return kCaptureUnsupported;
  std::string architecture;
  std::string symbol;
  if (std::strncmp(image, "FAKE ", 5) == 0) {
    std::istringstream words(image + 5);
    words >> architecture >> symbol;
    if (symbol.empty()) return kInvalidImage;
    const int number = std::atoi(architecture.substr(architecture.find('_') + 1).c_str());
    if (number / 10 != card.major || number % 10 > card.minor) return kNoBinary;
  } else if (std::memcmp(image,
                         "\x7f"
                         "ELF",
                         4) != 0) {
    return kInvalidImage;
  }
  *module = new Module{symbol, {}};
  card.modules.insert(*module);
  record("cuModuleLoadData", architecture, symbol);
  return 0;
}

FAKE_API int cuModuleUnload(Module* module) {
  FAKE_CALL("cuModuleUnload", true);
  if (card.modules.erase(module) == 0) return kInvalidHandle;
  for (Function* function : module->functions) delete function;
  delete module;
  record("cuModuleUnload");
  return 0;
}

FAKE_API int cuModuleGetFunction(Function** function, Module* module, const char* symbol) {
  FAKE_CALL("cuModuleGetFunction", true);
  if (!card.modules.contains(module)) return kInvalidHandle;
  if (!module->symbol.empty() && module->symbol != symbol) return kNotFound;
  *function = new Function{symbol};
  module->functions.push_back(*function);
  record("cuModuleGetFunction", symbol);
  return 0;
}

FAKE_API int cuFuncSetAttribute(Function* function, int attribute, int value) {
  FAKE_CALL("cuFuncSetAttribute", true);
  if (attribute != 8 || value > static_cast<int>(card.shared_limit)) return kInvalidValue;
  function->max_shared = value;
  record("cuFuncSetAttribute", function->symbol, attribute, value);
  return 0;
}

FAKE_API int cuStreamCreate(Stream** stream, unsigned flags) {
  FAKE_CALL("cuStreamCreate", true);
  *stream = new Stream;
  card.streams.insert(*stream);
  record("cuStreamCreate", flags);
  return 0;
}

FAKE_API int cuStreamDestroy_v2(Stream* stream) {
  FAKE_CALL("cuStreamDestroy_v2", true);
  if (card.streams.erase(stream) == 0) return kInvalidHandle;
  delete stream->capturing;  // of a capture that nobody has ended
  delete stream;
  record("cuStreamDestroy_v2");
  return 0;
}

FAKE_API int cuStreamSynchronize(Stream* stream) {
  const Graph* launched = nullptr;
  {
    FAKE_CALL("cuStreamSynchronize", true);
    if (!card.streams.contains(stream)) return kInvalidHandle;
    if (stream->capturing != nullptr) return kCaptureUnsupported;
    record("cuStreamSynchronize");
    std::swap(launched, stream->launched);
  }
  if (launched == nullptr) return 0;
  for (const Node& node : launched->nodes) {
    if (const int code = run(node); code != 0) return code;
  }
  return 0;
}

FAKE_API int cuStreamBeginCapture_v2(Stream* stream, int mode) {
  FAKE_CALL("cuStreamBeginCapture_v2", true);
  if (!card.streams.contains(stream) || stream->capturing != nullptr) return kInvalidHandle;
  stream->capturing = new Graph;
  record("cuStreamBeginCapture_v2", mode);
  return 0;
}

FAKE_API int cuStreamEndCapture(Stream* stream, Graph** graph) {
  FAKE_CALL("cuStreamEndCapture", true);
  if (!card.streams.contains(stream) || stream->capturing == nullptr) return kInvalidHandle;
  *graph = stream->capturing;
  card.graphs.insert(*graph);
  stream->capturing = nullptr;
  record("cuStreamEndCapture");
  return 0;
}

FAKE_API int cuGraphInstantiateWithFlags(Graph** exec, const Graph* graph,
                                         unsigned long long flags) {
  FAKE_CALL("cuGraphInstantiateWithFlags", true);
  if (!card.graphs.contains(const_cast<Graph*>(graph))) return kInvalidHandle;
  *exec = new Graph(*graph);
  card.execs.insert(*exec);
  record("cuGraphInstantiateWithFlags", graph->nodes.size(), flags);
  return 0;
}

FAKE_API int cuGraphDestroy(Graph* graph) {
  FAKE_CALL("cuGraphDestroy", true);
  if (card.graphs.erase(graph) == 0) return kInvalidHandle;
  delete graph;
  record("cuGraphDestroy");
  return 0;
}

FAKE_API int cuGraphExecDestroy(Graph* exec) {
  FAKE_CALL("cuGraphExecDestroy", true);
  if (card.execs.erase(exec) == 0) return kInvalidHandle;
  delete exec;
  record("cuGraphExecDestroy");
  return 0;
}

FAKE_API int cuGraphUpload(Graph* exec, Stream* /*stream*/) {
  FAKE_CALL("cuGraphUpload", true);
  if (!card.execs.contains(exec)) return kInvalidHandle;
  record("cuGraphUpload");
  return 0;
}

FAKE_API int cuGraphLaunch(Graph* exec, Stream* stream) {
  FAKE_CALL("cuGraphLaunch", true);
  if (!card.execs.contains(exec) || !card.streams.contains(stream)) return kInvalidHandle;
  record("cuGraphLaunch", exec->nodes.size());
  stream->launched = exec;
  return 0;
}

FAKE_API int cuLaunchKernel(Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z,
                            unsigned block_x, unsigned block_y, unsigned block_z, unsigned shared,
                            Stream* stream, void** parameters, void** extra) {
  FAKE_CALL("cuLaunchKernel", true);
  if (parameters != nullptr || extra == nullptr) return kInvalidValue;
  Node node{.grid = {grid_x, grid_y, grid_z}, .parameters = {}};
  const auto* bytes = static_cast<const unsigned char*>(extra[1]);
  if (extra[0] != reinterpret_cast<void*>(1) || extra[2] != reinterpret_cast<void*>(2) ||
      extra[4] != nullptr) {
    return kInvalidValue;
  }
  node.parameters.assign(bytes, bytes + *static_cast<const std::size_t*>(extra[3]));
  record("cuLaunchKernel", function->symbol,
         std::to_string(grid_x) + "," + std::to_string(grid_y) + "," + std::to_string(grid_z),
         std::to_string(block_x) + "," + std::to_string(block_y) + "," + std::to_string(block_z),
         shared, when(stream), hex(node.parameters));
  if (grid_x == 0 || grid_y == 0 || grid_z == 0 || block_x == 0 || block_x > 1024) {
    return kInvalidValue;
  }
  if (static_cast<int>(shared) > function->max_shared) return kInvalidValue;
  const auto found = card.kernels.find(function->symbol);
  if (found != card.kernels.end()) node.run = found->second;
  return enqueue(stream, std::move(node));
}

FAKE_API int cuGetErrorName(int code, const char** name) {
  *name = name_of(code);
  return *name != nullptr ? 0 : kInvalidValue;
}
}
