// Calls that leave the interpreter lock to other threads.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <optional>
#include <utility>

#include "flux/clock.hpp"

namespace flux::bindings {

namespace py = pybind11;

inline bool is_finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Calls without the GIL. A daemon thread that comes back while the interpreter ends must not take
// the GIL again, so it sleeps until the process is gone. The GIL is not taken in a destructor,
// because Python ends such a thread by unwinding its stack, which no destructor survives.
template <typename Call>
auto unlocked(Call call) {
  PyThreadState* thread = PyEval_SaveThread();
  std::exception_ptr error;
  std::optional<decltype(call())> result;
  try {
    result = call();
  } catch (const std::exception&) {
    error = std::current_exception();
  }
  MonotonicClock clock;
  while (is_finalizing()) clock.sleep_until_ns(clock.now_ns() + 1'000'000'000);
  PyEval_RestoreThread(thread);
  if (error) std::rethrow_exception(error);
  return *std::move(result);
}

}  // namespace flux::bindings
