// The part of ONNX Runtime's C API that flux calls, declared here so that compiling needs no ONNX
// Runtime header and any runtime from 1.19 on can be loaded.
//
// OrtApi is a table of function pointers that only ever grows at the end, so a slot number and a
// signature are enough to call a function. Configure with -DORT_INCLUDE_DIR=DIR, the folder that
// holds onnxruntime_c_api.h, to let the compiler check the numbers and constants against the
// original.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef FLUX_HAS_ORT_HEADER
#include <onnxruntime_c_api.h>
#endif

namespace flux::ort {

// Opaque handles of ONNX Runtime.
struct Api;
struct Status;
struct Env;
struct Session;
struct SessionOptions;
struct RunOptions;
struct MemoryInfo;
struct Value;
struct IoBinding;
struct Allocator;
struct TypeInfo;
struct TensorTypeAndShapeInfo;
struct CudaOptions;
struct TensorRtOptions;

struct ApiBase {
  const Api* (*get_api)(std::uint32_t version);
  const char* (*get_version_string)();
};

// Every runtime also provides older API versions, and this version has all slots below.
inline constexpr std::uint32_t kApiVersion = 19;

inline constexpr int kLogError = 3;
inline constexpr int kEnableAllOptimizations = 99;
inline constexpr int kDeviceAllocator = 0;
inline constexpr int kDefaultMemory = 0;

inline constexpr int kElementFloat = 1;
inline constexpr int kElementUint8 = 2;
inline constexpr int kElementInt32 = 6;
inline constexpr int kElementInt64 = 7;
inline constexpr int kElementBool = 9;
inline constexpr int kElementFloat16 = 10;
inline constexpr int kElementDouble = 11;
inline constexpr int kElementBfloat16 = 16;

// ONNX Runtime's name for the memory of an NVIDIA GPU.
inline constexpr const char* kCudaMemory = "Cuda";
inline constexpr int kFirstDevice = 0;

// X(name, slot, result, arguments)
#define FLUX_ORT_SLOTS(X)                                                                        \
  X(GetErrorMessage, 2, const char*, (const Status*))                                            \
  X(CreateEnv, 3, Status*, (int log_level, const char* log_id, Env**))                           \
  X(CreateSession, 7, Status*, (const Env*, const char* path, const SessionOptions*, Session**)) \
  X(CreateSessionOptions, 10, Status*, (SessionOptions**))                                       \
  X(SetSessionGraphOptimizationLevel, 23, Status*, (SessionOptions*, int level))                 \
  X(SetIntraOpNumThreads, 24, Status*, (SessionOptions*, int num_threads))                       \
  X(SessionGetInputCount, 30, Status*, (const Session*, std::size_t*))                           \
  X(SessionGetOutputCount, 31, Status*, (const Session*, std::size_t*))                          \
  X(SessionGetInputTypeInfo, 33, Status*, (const Session*, std::size_t index, TypeInfo**))       \
  X(SessionGetOutputTypeInfo, 34, Status*, (const Session*, std::size_t index, TypeInfo**))      \
  X(SessionGetInputName, 36, Status*, (const Session*, std::size_t index, Allocator*, char**))   \
  X(SessionGetOutputName, 37, Status*, (const Session*, std::size_t index, Allocator*, char**))  \
  X(CreateTensorWithDataAsOrtValue, 49, Status*,                                                 \
    (const MemoryInfo*, void* data, std::size_t num_bytes, const std::int64_t* shape,            \
     std::size_t num_dims, int element_type, Value**))                                           \
  X(CastTypeInfoToTensorInfo, 55, Status*, (const TypeInfo*, const TensorTypeAndShapeInfo**))    \
  X(GetTensorElementType, 60, Status*, (const TensorTypeAndShapeInfo*, int*))                    \
  X(GetDimensionsCount, 61, Status*, (const TensorTypeAndShapeInfo*, std::size_t*))              \
  X(GetDimensions, 62, Status*,                                                                  \
    (const TensorTypeAndShapeInfo*, std::int64_t* shape, std::size_t num_dims))                  \
  X(CreateMemoryInfo, 68, Status*,                                                               \
    (const char* name, int allocator_type, int device, int memory_type, MemoryInfo**))           \
  X(CreateCpuMemoryInfo, 69, Status*, (int allocator_type, int memory_type, MemoryInfo**))       \
  X(AllocatorAlloc, 75, Status*, (Allocator*, std::size_t num_bytes, void**))                    \
  X(AllocatorFree, 76, Status*, (Allocator*, void*))                                             \
  X(GetAllocatorWithDefaultOptions, 78, Status*, (Allocator**))                                  \
  X(ReleaseEnv, 92, void, (Env*))                                                                \
  X(ReleaseStatus, 93, void, (Status*))                                                          \
  X(ReleaseMemoryInfo, 94, void, (MemoryInfo*))                                                  \
  X(ReleaseSession, 95, void, (Session*))                                                        \
  X(ReleaseValue, 96, void, (Value*))                                                            \
  X(ReleaseTypeInfo, 98, void, (TypeInfo*))                                                      \
  X(ReleaseSessionOptions, 100, void, (SessionOptions*))                                         \
  X(AddSessionConfigEntry, 130, Status*, (SessionOptions*, const char* key, const char* value))  \
  X(CreateAllocator, 131, Status*, (const Session*, const MemoryInfo*, Allocator**))             \
  X(ReleaseAllocator, 132, void, (Allocator*))                                                   \
  X(RunWithBinding, 133, Status*, (Session*, const RunOptions*, const IoBinding*))               \
  X(CreateIoBinding, 134, Status*, (Session*, IoBinding**))                                      \
  X(ReleaseIoBinding, 135, void, (IoBinding*))                                                   \
  X(BindInput, 136, Status*, (IoBinding*, const char* name, const Value*))                       \
  X(BindOutput, 137, Status*, (IoBinding*, const char* name, const Value*))                      \
  X(SessionOptionsAppendExecutionProvider_TensorRT_V2, 170, Status*,                             \
    (SessionOptions*, const TensorRtOptions*))                                                   \
  X(CreateTensorRTProviderOptions, 171, Status*, (TensorRtOptions**))                            \
  X(UpdateTensorRTProviderOptions, 172, Status*,                                                 \
    (TensorRtOptions*, const char* const* names, const char* const* values, std::size_t count))  \
  X(ReleaseTensorRTProviderOptions, 174, void, (TensorRtOptions*))                               \
  X(SessionOptionsAppendExecutionProvider_CUDA_V2, 204, Status*,                                 \
    (SessionOptions*, const CudaOptions*))                                                       \
  X(CreateCUDAProviderOptions, 205, Status*, (CudaOptions**))                                    \
  X(UpdateCUDAProviderOptions, 206, Status*,                                                     \
    (CudaOptions*, const char* const* names, const char* const* values, std::size_t count))      \
  X(ReleaseCUDAProviderOptions, 208, void, (CudaOptions*))

// The functions above, read from a runtime's table.
struct Calls {
  explicit Calls(const Api* api) noexcept;

#define FLUX_ORT_MEMBER(name, slot, result, arguments) result(*name) arguments;
  FLUX_ORT_SLOTS(FLUX_ORT_MEMBER)
#undef FLUX_ORT_MEMBER
};

#ifdef FLUX_HAS_ORT_HEADER
#define FLUX_ORT_CHECK(name, slot, result, arguments) \
  static_assert(offsetof(::OrtApi, name) == (slot) * sizeof(void*));
FLUX_ORT_SLOTS(FLUX_ORT_CHECK)
#undef FLUX_ORT_CHECK
static_assert(kLogError == ORT_LOGGING_LEVEL_ERROR);
static_assert(kEnableAllOptimizations == ORT_ENABLE_ALL);
static_assert(kDeviceAllocator == OrtDeviceAllocator);
static_assert(kDefaultMemory == OrtMemTypeDefault);
static_assert(kElementFloat == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
static_assert(kElementUint8 == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
static_assert(kElementInt32 == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32);
static_assert(kElementInt64 == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
static_assert(kElementBool == ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL);
static_assert(kElementFloat16 == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16);
static_assert(kElementBfloat16 == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16);
static_assert(kElementDouble == ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE);
#endif

}  // namespace flux::ort
