#include "chunk_inference.hpp"

#include <memory>
#include <span>
#include <stdexcept>
#include <string>

#include "module.hpp"
#include "unlocked.hpp"

namespace flux::bindings {
namespace {

// Runs `convert`; if it refuses what a caller passed, the request is answered with that.
template <typename Convert>
auto answering(ChunkInference& inference, const InferenceRequest& request, Convert convert) {
  try {
    return convert();
  } catch (const std::exception& error) {
    inference.fail(request, error.what());
    throw;
  }
}

}  // namespace

bool infer(const std::shared_ptr<ChunkInference> inference, const InferenceRequest& request,
           const py::dict& inputs, const py::handle& state, const py::handle& noise,
           std::int64_t observed_ns) {
  if (inference->policy() == nullptr) return inference->infer(request, {}, {}, {}, observed_ns);
  const Policy& policy = *inference->policy();
  const auto action_dim = static_cast<std::int64_t>(inference->mailbox().action_dim());
  const auto named = answering(*inference, request, [&] {
    return std::make_unique<NamedArrays>(inputs, policy.user_inputs());
  });
  const FloatArray states = answering(
      *inference, request, [&] { return require_floats(state, "state", {{action_dim}}); });
  const FloatArray noises =
      answering(*inference, request, [&] { return require_noise(policy, noise); });
  const std::span<const float> state_values = span_of(states);
  const std::span<const float> noise_values = span_of(noises);
  return unlocked([&] {
    return inference->infer(request, named->views(), state_values, noise_values, observed_ns);
  });
}

bool submit_chunk(ChunkInference& inference, const InferenceRequest& request,
                  const py::array& actions, std::int64_t observed_ns) {
  const auto action_dim = static_cast<std::int64_t>(inference.mailbox().action_dim());
  const std::int64_t rows = actions.ndim() == 2 ? actions.shape(0) : 0;
  const FloatArray values = answering(inference, request, [&] {
    if (rows == 0) {
      throw std::invalid_argument(expected_got(
          "actions", "float32 (H, " + std::to_string(action_dim) + ")", describe_array(actions)));
    }
    return require_floats(actions, "actions", {{rows, action_dim}});
  });
  return inference.submit(request, span_of(values), observed_ns);
}

FloatArray inferred_actions(const ChunkInference& inference) {
  const std::span<const float> values = inference.actions();
  const auto action_dim = static_cast<py::ssize_t>(inference.shared_mailbox()->action_dim());
  const auto rows = static_cast<py::ssize_t>(values.size()) / action_dim;
  return FloatArray({rows, action_dim}, values.data());
}

py::dict request_data(const InferenceRequest& request) {
  py::dict data;
  data["index"] = request.index;
  data["session"] = request.session;
  data["ticket"] = request.ticket;
  data["epoch"] = request.epoch;
  data["taken_ns"] = request.taken_ns;
  data["next_row"] = request.progress.next_row;
  data["slowed_ns"] = request.progress.slowed_ns;
  data["prefix_len"] = request.prefix_len;
  return data;
}

InferenceRequest request_of(const py::dict& data) {
  const auto count = [&](const char* name) { return data[name].cast<std::uint64_t>(); };
  const auto number = [&](const char* name) { return data[name].cast<std::int64_t>(); };
  return {.index = count("index"),
          .session = count("session"),
          .ticket = count("ticket"),
          .epoch = count("epoch"),
          .taken_ns = number("taken_ns"),
          .progress = {.next_row = number("next_row"), .slowed_ns = number("slowed_ns")},
          .prefix_len = data["prefix_len"].cast<int>()};
}

}  // namespace flux::bindings
