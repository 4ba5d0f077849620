#include "flux/flow_policy.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace flux {
namespace {

void require_wanted(const std::atomic<bool>* cancel) {
  if (cancel == nullptr || !cancel->load(std::memory_order_relaxed)) return;
  throw InferenceCancelled("inference: cancelled");
}

const TensorInfo* find(std::span<const TensorInfo> infos, std::string_view name) noexcept {
  const auto found = std::ranges::find(infos, name, &TensorInfo::name);
  return found == infos.end() ? nullptr : &*found;
}

const TensorInfo& require(std::span<const TensorInfo> infos, const char* name, const char* side) {
  const TensorInfo* info = find(infos, name);
  if (info == nullptr) {
    throw std::invalid_argument(expected_got(
        name, std::string("an ") + side + " of the denoise graph", std::string("no such ") + side));
  }
  return *info;
}

void require_layout(const TensorInfo& found, DType dtype, std::vector<std::int64_t> shape,
                    const char* graph) {
  const TensorInfo expected{.name = found.name, .dtype = dtype, .shape = std::move(shape)};
  if (!found.has_layout_of(expected)) {
    throw std::invalid_argument(expected_got(found.name + " of the " + graph + " graph",
                                             describe(expected), describe(found)));
  }
}

}  // namespace

FlowPolicy::FlowPolicy(std::unique_ptr<Engine> prefix, std::unique_ptr<Engine> denoise,
                       int num_inference_steps)
    : prefix_(std::move(prefix)),
      denoise_(std::move(denoise)),
      num_inference_steps_(static_cast<std::size_t>(num_inference_steps)) {
  if (num_inference_steps < 1) {
    throw std::invalid_argument(
        expected_got("num_inference_steps", "at least 1", std::to_string(num_inference_steps)));
  }
  read_action_shape();
  bind_prefix();
  bind_steps();
  std::vector<TensorInfo> user_inputs;
  for (const auto& [name, tensor] : tensors_) {
    if (tensor.is_user_input) user_inputs.push_back(tensor.info);
  }
  set_user_inputs(std::move(user_inputs));
}

void FlowPolicy::read_action_shape() {
  const TensorInfo& x_t = require(denoise_->inputs(), "x_t", "input");
  if (x_t.dtype != DType::kFloat32 || x_t.shape.size() != 3 || x_t.shape[0] != 1) {
    throw std::invalid_argument(
        expected_got("x_t of the denoise graph", "float32 (1, H, A)", describe(x_t)));
  }
  const std::int64_t action_horizon = x_t.shape[1];
  const auto float32 = DType::kFloat32;
  require_layout(require(denoise_->inputs(), "t", "input"), float32, {1, action_horizon},
                 "denoise");
  require_layout(require(denoise_->outputs(), "x_next", "output"), float32, x_t.shape, "denoise");
  require_layout(require(denoise_->outputs(), "t_next", "output"), float32, {1, action_horizon},
                 "denoise");
  set_action_shape(static_cast<int>(action_horizon), static_cast<int>(x_t.shape[2]));
}

void FlowPolicy::add_tensor(const TensorInfo& info, bool is_user_input) {
  const auto found = tensors_.find(info.name);
  if (found == tensors_.end()) {
    const TensorMemory memory =
        is_user_input ? TensorMemory{.data = host_memory_.emplace_back(info.num_bytes()).data()}
                      : prefix_->allocate(info.num_bytes());
    tensors_.emplace(info.name, Tensor{info, memory, is_user_input});
  } else if (!found->second.info.has_layout_of(info)) {
    throw std::invalid_argument(
        expected_got(info.name + " of the denoise graph",
                     describe(found->second.info) + " as in the prefix graph", describe(info)));
  }
}

void FlowPolicy::bind_prefix() {
  for (const TensorInfo& info : prefix_->inputs()) add_tensor(info, true);
  for (const TensorInfo& info : prefix_->outputs()) {
    if (tensors_.contains(info.name)) {
      throw std::invalid_argument(
          expected_got(info.name + " of the prefix graph", "an input or an output", "both"));
    }
    add_tensor(info, false);
  }
  std::vector<BoundBuffer> bound;
  for (const auto& [name, tensor] : tensors_) bound.push_back({name, tensor.memory});
  prefix_binding_ = prefix_->bind(bound);
}

void FlowPolicy::bind_steps() {
  const std::size_t num_x_bytes = num_action_values() * sizeof(float);
  const std::size_t num_t_bytes = static_cast<std::size_t>(action_horizon()) * sizeof(float);
  noise_ = Buffer(num_x_bytes);
  actions_ = Buffer(num_x_bytes);
  ones_ = Buffer(num_t_bytes);
  std::ranges::fill(ones_.floats(), 1.0F);
  std::array<Flow, 2> halves;
  for (Flow& half : halves) {
    half = {.x = denoise_->allocate(num_x_bytes), .t = denoise_->allocate(num_t_bytes)};
  }
  std::vector<BoundBuffer> shared;
  for (const TensorInfo& info : denoise_->inputs()) {
    if (info.name == "x_t" || info.name == "t") continue;
    add_tensor(info, true);
    shared.push_back({info.name, tensors_.find(info.name)->second.memory});
  }
  for (const TensorInfo& info : denoise_->outputs()) {
    if (info.name == "x_next" || info.name == "t_next") continue;
    throw std::invalid_argument(expected_got("outputs of the denoise graph",
                                             "only x_next and t_next", "also " + info.name));
  }
  for (std::size_t step = 0; step < num_inference_steps_; ++step) {
    step_bindings_.push_back(has_own_binding(step) ? bind_step(step, shared, halves)
                                                   : step_bindings_[step - 2]);
  }
  bind_continued(shared);
}

// The host reads and writes all memory of these steps but the keys and values.
void FlowPolicy::bind_continued(std::span<const BoundBuffer> shared) {
  continued_ = std::make_unique<ContinuedFlow>(action_horizon(), action_dim(),
                                               static_cast<int>(num_inference_steps_));
  std::vector<BoundBuffer> bound(shared.begin(), shared.end());
  bound.push_back({"x_t", {.data = continued_->x().data()}});
  bound.push_back({"t", {.data = continued_->t().data()}});
  bound.push_back({"x_next", {.data = continued_->x_next().data()}});
  bound.push_back({"t_next", {.data = continued_->t_next().data()}});
  continued_binding_ = denoise_->bind(bound);
}

// The first step reads the noise and the last one writes the actions; the steps between them
// alternate between two bindings.
bool FlowPolicy::has_own_binding(std::size_t step) const noexcept {
  return step <= 2 || step + 1 == num_inference_steps_;
}

std::size_t FlowPolicy::bind_step(std::size_t step, std::span<const BoundBuffer> shared,
                                  const std::array<Flow, 2>& halves) {
  Flow from = halves[(step + 1) % 2];
  Flow to = halves[step % 2];
  if (step == 0) from = {.x = {.data = noise_.data()}, .t = {.data = ones_.data()}};
  if (step + 1 == num_inference_steps_) to.x = {.data = actions_.data()};
  std::vector<BoundBuffer> bound(shared.begin(), shared.end());
  bound.push_back({"x_t", from.x});
  bound.push_back({"t", from.t});
  bound.push_back({"x_next", to.x});
  bound.push_back({"t_next", to.t});
  return denoise_->bind(bound);
}

void FlowPolicy::copy_in(std::span<const TensorView> inputs, std::span<const float> noise) {
  for (const TensorView& view : inputs) {
    const Tensor& tensor = tensors_.find(view.name)->second;
    std::memcpy(tensor.memory.data, view.data, tensor.info.num_bytes());
  }
  std::ranges::copy(noise, noise_.floats().begin());
  prefix_->upload(prefix_binding_);
}

void FlowPolicy::upload_steps() {
  for (std::size_t step = 0; step < num_inference_steps_; ++step) {
    if (has_own_binding(step)) denoise_->upload(step_bindings_[step]);
  }
}

void FlowPolicy::run_step(std::size_t binding, FlowHistograms* also,
                          const std::atomic<bool>* cancel) {
  require_wanted(cancel);
  const StageTimer timer;
  denoise_->run(binding);
  timer.record(&FlowHistograms::step, histograms_, also);
}

void FlowPolicy::run_steps(FlowHistograms* also, const std::atomic<bool>* cancel) {
  for (const std::size_t binding : step_bindings_) run_step(binding, also, cancel);
}

void FlowPolicy::run_continued_steps(const Continuation& continuation, std::span<const float> noise,
                                     FlowHistograms* also, const std::atomic<bool>* cancel) {
  continued_->begin(continuation, noise);
  for (std::size_t step = 0; step < num_inference_steps_; ++step) {
    continued_->prepare(step);
    denoise_->upload(continued_binding_);
    run_step(continued_binding_, also, cancel);
    continued_->advance(step);
  }
}

void FlowPolicy::compute(std::span<const TensorView> inputs, std::span<const float> noise,
                         std::span<float> actions, FlowHistograms* also,
                         const std::atomic<bool>* cancel, const Continuation* continuation) {
  require_wanted(cancel);
  const StageTimer copying;
  copy_in(inputs, noise);
  copying.record(&FlowHistograms::copy_in, histograms_, also);
  const StageTimer prefix;
  prefix_->run(prefix_binding_);
  prefix.record(&FlowHistograms::prefix, histograms_, also);
  // Uploads come after the prefix, which may have written to host memory.
  if (continuation == nullptr) upload_steps();
  const StageTimer denoise;
  if (continuation == nullptr) {
    run_steps(also, cancel);
  } else {
    run_continued_steps(*continuation, noise, also, cancel);
  }
  denoise.record(&FlowHistograms::denoise, histograms_, also);
  const Buffer& result = continuation == nullptr ? actions_ : continued_->x();
  std::memcpy(actions.data(), result.data(), result.num_bytes());
}

}  // namespace flux
