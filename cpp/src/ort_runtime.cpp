#include <dlfcn.h>

#include <stdexcept>

#include "flux/onnxruntime_engine.hpp"

namespace flux {
namespace {

const ort::ApiBase& load(const std::string& library) {
  // Never closed; see OrtRuntime. RTLD_LOCAL, because two ONNX Runtimes may share a process.
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* reason = ::dlerror();
    throw EngineUnavailable(library + ": cannot be loaded (" +
                            (reason ? reason : "no reason given") + "). Reinstall onnxruntime");
  }
  auto* get_base = reinterpret_cast<const ort::ApiBase* (*)()>(::dlsym(handle, "OrtGetApiBase"));
  if (get_base == nullptr) {
    throw EngineUnavailable(expected_got(library, "a library with OrtGetApiBase (ONNX Runtime)",
                                         "one without it. Install onnxruntime>=1.23"));
  }
  return *get_base();
}

const ort::Api* api_of(const ort::ApiBase& base, const std::string& library) {
  const ort::Api* api = base.get_api(ort::kApiVersion);
  if (api == nullptr) {
    throw EngineUnavailable(
        expected_got(library, "ONNX Runtime 1.19 or newer",
                     std::string(base.get_version_string()) + ". Install onnxruntime>=1.23"));
  }
  return api;
}

}  // namespace

OrtRuntime::OrtRuntime(const std::string& library) : OrtRuntime(load(library), library) {}

OrtRuntime::OrtRuntime(const ort::ApiBase& base, const std::string& library)
    : calls_(api_of(base, library)), version_(base.get_version_string()) {
  check(calls_.CreateEnv(ort::kLogError, "flux", &env_), library);
}

OrtRuntime::~OrtRuntime() {
  if (env_ != nullptr) calls_.ReleaseEnv(env_);
}

void OrtRuntime::check(ort::Status* status, const std::string& what) const {
  if (status == nullptr) return;
  const std::string message = calls_.GetErrorMessage(status);
  calls_.ReleaseStatus(status);
  throw std::runtime_error(what + ": " + message);
}

}  // namespace flux
