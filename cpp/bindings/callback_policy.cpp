#include "callback_policy.hpp"

#include <algorithm>
#include <exception>
#include <stdexcept>
#include <utility>

#include "arrays.hpp"
#include "locked.hpp"

namespace flux::bindings {
namespace {

// What Python asks whether anybody still wants the answer; valid beyond the call.
using CancelFlag = std::shared_ptr<const std::atomic<bool>*>;

const std::atomic<bool>& never() noexcept {
  static const std::atomic<bool> value{false};
  return value;
}

const std::atomic<bool>& always() noexcept {
  static const std::atomic<bool> value{true};
  return value;
}

py::array copied(const TensorView& view) {
  const std::vector<py::ssize_t> shape(view.shape.begin(), view.shape.end());
  return {py::dtype(std::string(dtype_name(view.dtype))), shape, view.data};
}

FloatArray rows_of(std::span<const float> values, int action_dim) {
  const auto width = static_cast<py::ssize_t>(action_dim);
  return FloatArray({static_cast<py::ssize_t>(values.size()) / width, width}, values.data());
}

// The objects of one call. They are deleted under the GIL, or never.
struct Call {
  py::dict inputs;
  py::object noise;
  py::object previous = py::none();
  py::object cancelled;
  py::object answer;
  FloatArray actions;
};

void fill(Call& call, std::span<const TensorView> inputs, std::span<const float> noise,
          const Continuation* continuation, int action_dim, const CancelFlag& flag) {
  for (const TensorView& view : inputs) call.inputs[py::str(std::string(view.name))] = copied(view);
  call.noise = rows_of(noise, action_dim);
  if (continuation != nullptr) call.previous = rows_of(continuation->previous, action_dim);
  call.cancelled = py::cpp_function([flag] { return (*flag)->load(); });
}

// In one line, or the exception's type if it says nothing.
std::string text_of(const py::error_already_set& error) {
  const auto words = py::str(error.value()).attr("split")();
  auto text = py::str(" ").attr("join")(words).cast<std::string>();
  return text.empty() ? error.type().attr("__name__").cast<std::string>() : text;
}

// What Python raised, as an exception that needs no GIL; a signal's stays as it is.
[[noreturn]] void raise_failure(const py::error_already_set& error, const CancelFlag& flag) {
  if (!error.matches(PyExc_Exception)) throw;  // the one that is being handled
  std::string text = "an exception without text";
  try {
    text = text_of(error);
  } catch (const std::exception&) {  // its own __str__ may raise
  }
  if ((*flag)->load()) throw InferenceCancelled(text);
  throw std::runtime_error(text);
}

void check_shape(const char* name, int value) {
  if (value >= 1) return;
  throw std::invalid_argument(expected_got(name, "at least 1", std::to_string(value)));
}

}  // namespace

CallbackPolicy::CallbackPolicy(py::object call, std::vector<TensorInfo> inputs, int action_horizon,
                               int action_dim, bool can_continue)
    : can_continue_(can_continue) {
  check_shape("action_horizon", action_horizon);
  check_shape("action_dim", action_dim);
  if (PyCallable_Check(call.ptr()) == 0) {
    throw std::invalid_argument(
        expected_got("call", "a function", py::str(py::type::of(call)).cast<std::string>()));
  }
  for (const TensorInfo& info : inputs) {
    for (const std::int64_t size : info.shape)
      check_shape(info.name.c_str(), static_cast<int>(size));
  }
  call_ = keep_alive(std::move(call));
  set_user_inputs(std::move(inputs));
  set_action_shape(action_horizon, action_dim);
}

void CallbackPolicy::compute(std::span<const TensorView> inputs, std::span<const float> noise,
                             std::span<float> actions, FlowHistograms* /*also*/,
                             const std::atomic<bool>* cancel, const Continuation* continuation) {
  const auto flag = std::make_shared<const std::atomic<bool>*>(cancel ? cancel : &never());
  Call* call = nullptr;
  const auto end = [&] {
    *flag = &always();
    delete call;
    call = nullptr;
  };
  locked([&] {
    call = new Call;
    try {
      fill(*call, inputs, noise, continuation, action_dim(), flag);
      call->answer = (*static_cast<py::object*>(call_.get()))(
          call->inputs, call->noise, call->previous,
          continuation != nullptr ? continuation->prefix_len : 0, call->cancelled);
      call->actions = require_floats(call->answer, "actions", {{action_horizon(), action_dim()}});
      std::ranges::copy(span_of(call->actions), actions.begin());
    } catch (const py::error_already_set& error) {
      try {
        raise_failure(error, flag);
      } catch (...) {
        end();
        throw;
      }
    } catch (const std::exception&) {
      end();
      throw;
    }
    end();
  });
}

}  // namespace flux::bindings
