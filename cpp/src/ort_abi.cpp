#include "flux/ort_abi.hpp"

namespace flux::ort {
namespace {

template <typename Function>
Function* function_at(const Api* api, std::size_t slot) noexcept {
  return reinterpret_cast<Function*>(reinterpret_cast<void* const*>(api)[slot]);
}

}  // namespace

Calls::Calls(const Api* api) noexcept {
#define FLUX_ORT_LOAD(name, slot, result, arguments) \
  name = function_at<result arguments>(api, slot);
  FLUX_ORT_SLOTS(FLUX_ORT_LOAD)
#undef FLUX_ORT_LOAD
}

}  // namespace flux::ort
