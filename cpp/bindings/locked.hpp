// Objects and calls of Python, for threads that do not hold the interpreter lock.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <memory>
#include <utility>

#include "flux/clock.hpp"
#include "unlocked.hpp"

namespace flux::bindings {

// Keeps a Python object alive. Any thread may drop the last reference, but releasing the object
// requires the GIL. While the interpreter ends, it is left alone.
inline std::shared_ptr<void> keep_alive(py::object owner) {
  auto* held = new py::object(std::move(owner));
  return {held, [](void* object) {
            if (is_finalizing()) return;
            const py::gil_scoped_acquire acquire;
            delete static_cast<py::object*>(object);
          }};
}

// Calls with the GIL, on any thread. A thread that comes while the interpreter ends sleeps until
// the process is gone. Python ends a thread that waits for the GIL meanwhile by unwinding its
// stack; so the GIL is not released in a destructor, and `call` must keep no Python object in a
// variable of its own.
template <typename Call>
void locked(Call call) {
  MonotonicClock clock;
  while (is_finalizing()) clock.sleep_until_ns(clock.now_ns() + 1'000'000'000);
  const PyGILState_STATE before = PyGILState_Ensure();
  std::exception_ptr error;
  try {
    call();
  } catch (const std::exception&) {
    error = std::current_exception();
  }
  PyGILState_Release(before);
  if (error) std::rethrow_exception(error);
}

// Deletes without the GIL: a destructor that waits for a thread must leave the GIL to it.
template <typename Value>
struct DeleteUnlocked {
  void operator()(Value* value) const {
    if (PyGILState_Check() == 0) {
      delete value;
      return;
    }
    const py::gil_scoped_release release;
    delete value;
  }
};

}  // namespace flux::bindings
