#include <dlfcn.h>

#include <stdexcept>
#include <utility>

#include "flux/openvino_engine.hpp"

namespace flux {
namespace {

constexpr const char* kDevice = "CPU";

openvino::Calls load(const std::string& library) {
  // Never closed; see OpenVinoRuntime.
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    throw EngineUnavailable(library + ": cannot be loaded (" +
                            (reason ? reason : "no reason given") + "). Reinstall openvino");
  }
  std::string missing;
  const openvino::Calls calls(handle, missing);
  if (!missing.empty()) {
    throw EngineUnavailable(expected_got(library, "OpenVINO's C library",
                                         "one without " + missing + ". Install openvino>=2025.4"));
  }
  return calls;
}

}  // namespace

namespace openvino {

Calls::Calls(void* handle, std::string& missing) {
#define FLUX_OPENVINO_LOAD(name, result, arguments)                     \
  name = reinterpret_cast<result(*) arguments>(::dlsym(handle, #name)); \
  if (name == nullptr) missing = #name;
  FLUX_OPENVINO_FUNCTIONS(FLUX_OPENVINO_LOAD)
#undef FLUX_OPENVINO_LOAD
}

}  // namespace openvino

OpenVinoRuntime::OpenVinoRuntime(const std::string& library, int num_threads,
                                 const std::map<std::string, std::string>& properties)
    : calls_(load(library)), properties_(properties) {
  if (num_threads < 1) {
    throw std::invalid_argument(
        expected_got("num_threads", "at least 1", std::to_string(num_threads)));
  }
  // By default, OpenVINO computes in bfloat16 wherever the CPU supports it.
  properties_.try_emplace("INFERENCE_PRECISION_HINT", "f32");
  require_known_elements(library);
  check(calls_.ov_core_create(&core_), library);
  try {
    set_property("INFERENCE_NUM_THREADS", std::to_string(num_threads));
    set_property("PERFORMANCE_HINT", "LATENCY");
    // Threads pinned to a core would get in the way of the control thread.
    set_property("ENABLE_CPU_PINNING", "NO");
    for (const auto& [name, value] : properties_) set_property(name, value);
  } catch (...) {
    calls_.ov_core_free(core_);
    throw;
  }
}

OpenVinoRuntime::~OpenVinoRuntime() { calls_.ov_core_free(core_); }

void OpenVinoRuntime::require_known_elements(const std::string& library) const {
  constexpr std::pair<unsigned, std::size_t> kSizes[] = {
      {openvino::kElementBoolean, 1}, {openvino::kElementBfloat16, 2},
      {openvino::kElementFloat16, 2}, {openvino::kElementFloat, 4},
      {openvino::kElementDouble, 8},  {openvino::kElementInt32, 4},
      {openvino::kElementInt64, 8},   {openvino::kElementUint8, 1}};
  for (const auto& [element, size] : kSizes) {
    std::int64_t one = 1;
    openvino::Tensor* tensor = nullptr;
    std::size_t num_bytes = 0;
    check(calls_.ov_tensor_create(static_cast<openvino::Element>(element), {1, &one}, &tensor),
          library);
    const openvino::Status status = calls_.ov_tensor_get_byte_size(tensor, &num_bytes);
    calls_.ov_tensor_free(tensor);
    check(status, library);
    if (num_bytes != size) {
      throw EngineUnavailable(
          expected_got(library, "OpenVINO 2025.4 or newer",
                       "one with other element type numbers. Install openvino>=2025.4"));
    }
  }
}

void OpenVinoRuntime::set_property(const std::string& name, const std::string& value) {
  check(calls_.ov_core_set_property(core_, kDevice, name.c_str(), value.c_str()),
        name + "=" + value);
}

void OpenVinoRuntime::require_properties(const openvino::CompiledModel* model) const {
  for (const auto& [name, wanted] : properties_) {
    char* value = nullptr;
    check(calls_.ov_compiled_model_get_property(model, name.c_str(), &value), name);
    const std::string got(value);
    calls_.ov_free(value);
    if (got != wanted) {
      throw EngineUnavailable(
          expected_got(name, wanted, got + ". This CPU supports no other value"));
    }
  }
}

void OpenVinoRuntime::check(openvino::Status status, const std::string& what) const {
  if (static_cast<int>(status) == openvino::kOk) return;
  const char* message = calls_.ov_get_last_err_msg();
  const std::string text = message != nullptr ? message : "no reason given";
  calls_.ov_free(message);
  throw std::runtime_error(what + ": " + text);
}

}  // namespace flux
