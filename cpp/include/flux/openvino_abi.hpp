// The part of OpenVINO's C API that flux calls, declared here so that compiling needs no OpenVINO
// header and the library of any installed OpenVINO from 2025.4 on can be loaded.
//
// Configure with -DOPENVINO_INCLUDE_DIR=DIR, the folder that holds openvino/c/openvino.h (the pip
// package has one), to let the compiler check everything here against the original.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#ifdef FLUX_HAS_OPENVINO_HEADER
#include <openvino/c/openvino.h>

#include <type_traits>
#endif

namespace flux::openvino {

// Opaque handles of OpenVINO.
#ifdef FLUX_HAS_OPENVINO_HEADER
using Core = ::ov_core_t;
using Model = ::ov_model_t;
using CompiledModel = ::ov_compiled_model_t;
using InferRequest = ::ov_infer_request_t;
using Tensor = ::ov_tensor_t;
using Port = ::ov_output_const_port_t;
using Shape = ::ov_shape_t;
using Status = ::ov_status_e;
using Element = ::ov_element_type_e;
#else
struct Core;
struct Model;
struct CompiledModel;
struct InferRequest;
struct Tensor;
struct Port;
struct Shape {
  std::int64_t rank;
  std::int64_t* dims;
};
enum Status : int {};
enum Element : unsigned {};
#endif

inline constexpr int kOk = 0;

// Before 2025.4 the numbers were different; OpenVinoRuntime compares the element sizes with the
// library's.
inline constexpr unsigned kElementBoolean = 1;
inline constexpr unsigned kElementBfloat16 = 2;
inline constexpr unsigned kElementFloat16 = 3;
inline constexpr unsigned kElementFloat = 4;
inline constexpr unsigned kElementDouble = 5;
inline constexpr unsigned kElementInt32 = 9;
inline constexpr unsigned kElementInt64 = 10;
inline constexpr unsigned kElementUint8 = 16;

// X(name, result, arguments)
#define FLUX_OPENVINO_FUNCTIONS(X)                                                              \
  X(ov_get_last_err_msg, const char*, ())                                                       \
  X(ov_free, void, (const char*))                                                               \
  X(ov_core_create, Status, (Core**))                                                           \
  X(ov_core_free, void, (Core*))                                                                \
  X(ov_core_set_property, Status, (const Core*, const char* device, ...))                       \
  X(ov_core_read_model, Status,                                                                 \
    (const Core*, const char* path, const char* weights_path, Model**))                         \
  X(ov_model_free, void, (Model*))                                                              \
  X(ov_core_compile_model, Status,                                                              \
    (const Core*, const Model*, const char* device, const std::size_t num_properties,           \
     CompiledModel**, ...))                                                                     \
  X(ov_compiled_model_free, void, (CompiledModel*))                                             \
  X(ov_compiled_model_get_property, Status,                                                     \
    (const CompiledModel*, const char* name, char** value))                                     \
  X(ov_compiled_model_inputs_size, Status, (const CompiledModel*, std::size_t*))                \
  X(ov_compiled_model_outputs_size, Status, (const CompiledModel*, std::size_t*))               \
  X(ov_compiled_model_input_by_index, Status,                                                   \
    (const CompiledModel*, const std::size_t index, Port**))                                    \
  X(ov_compiled_model_output_by_index, Status,                                                  \
    (const CompiledModel*, const std::size_t index, Port**))                                    \
  X(ov_output_const_port_free, void, (Port*))                                                   \
  X(ov_port_get_any_name, Status, (const Port*, char**))                                        \
  X(ov_port_get_element_type, Status, (const Port*, Element*))                                  \
  X(ov_const_port_get_shape, Status, (const Port*, Shape*))                                     \
  X(ov_shape_free, Status, (Shape*))                                                            \
  X(ov_tensor_create, Status, (const Element, const Shape, Tensor**))                           \
  X(ov_tensor_create_from_host_ptr, Status, (const Element, const Shape, void* data, Tensor**)) \
  X(ov_tensor_get_byte_size, Status, (const Tensor*, std::size_t*))                             \
  X(ov_tensor_free, void, (Tensor*))                                                            \
  X(ov_compiled_model_create_infer_request, Status, (const CompiledModel*, InferRequest**))     \
  X(ov_infer_request_set_input_tensor_by_index, Status,                                         \
    (InferRequest*, const std::size_t index, const Tensor*))                                    \
  X(ov_infer_request_set_output_tensor_by_index, Status,                                        \
    (InferRequest*, const std::size_t index, const Tensor*))                                    \
  X(ov_infer_request_infer, Status, (InferRequest*))                                            \
  X(ov_infer_request_free, void, (InferRequest*))

// The functions above, looked up by name.
struct Calls {
  // `handle` comes from dlopen. `missing` is set to the name of a function that the library lacks,
  // if any.
  Calls(void* handle, std::string& missing);

#define FLUX_OPENVINO_MEMBER(name, result, arguments) result(*name) arguments;
  FLUX_OPENVINO_FUNCTIONS(FLUX_OPENVINO_MEMBER)
#undef FLUX_OPENVINO_MEMBER
};

#ifdef FLUX_HAS_OPENVINO_HEADER
#define FLUX_OPENVINO_CHECK(name, result, arguments) \
  static_assert(std::is_same_v<decltype(Calls::name), decltype(&::name)>);
FLUX_OPENVINO_FUNCTIONS(FLUX_OPENVINO_CHECK)
#undef FLUX_OPENVINO_CHECK
static_assert(kOk == OK);
static_assert(kElementBoolean == BOOLEAN);
static_assert(kElementBfloat16 == BF16);
static_assert(kElementFloat16 == F16);
static_assert(kElementFloat == F32);
static_assert(kElementDouble == F64);
static_assert(kElementInt32 == I32);
static_assert(kElementInt64 == I64);
static_assert(kElementUint8 == U8);
#endif

}  // namespace flux::openvino
