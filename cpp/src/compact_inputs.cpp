#include "flux/compact_inputs.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

namespace flux {
namespace {

const TensorView& view_of(std::span<const TensorView> inputs, std::string_view name) {
  return *std::ranges::find(inputs, name, &TensorView::name);
}

void copy_bytes(const void* from, std::size_t num_bytes, std::span<std::byte> to) {
  std::memcpy(to.data(), from, num_bytes);
}

void require_bytes(const char* name, std::size_t expected, std::size_t found) {
  if (expected == found) return;
  throw std::invalid_argument(expected_got("input " + std::string(name) + " of the plan",
                                           std::to_string(expected) + " bytes",
                                           std::to_string(found)));
}

void require_layout(const TensorInfo& info, DType dtype, std::size_t num_dimensions) {
  const auto is_size = [](std::int64_t size) { return size >= 1; };
  if (info.dtype == dtype && info.shape.size() == num_dimensions && info.shape[0] == 1 &&
      std::ranges::all_of(info.shape, is_size)) {
    return;
  }
  throw std::invalid_argument(expected_got(info.name,
                                           std::string(dtype_name(dtype)) + " with " +
                                               std::to_string(num_dimensions) +
                                               " dimensions of at least 1, the first 1",
                                           describe(info)));
}

std::string listed(std::span<const int> numbers) {
  std::string text;
  for (const int number : numbers) text += (text.empty() ? "" : ", ") + std::to_string(number);
  return text;
}

}  // namespace

CompactInputs::CompactInputs(std::vector<TensorInfo> infos, const InputBlock& block,
                             std::vector<PlanVariant> variants, std::int64_t vocabulary_size,
                             int action_dim)
    : infos_(std::move(infos)),
      block_(block),
      variants_(std::move(variants)),
      vocabulary_size_(vocabulary_size),
      action_dim_(static_cast<std::size_t>(action_dim)) {
  std::ranges::sort(variants_, {},
                    [](const PlanVariant& v) { return std::tuple(v.num_cameras, v.num_tokens); });
  const auto is_empty = [](const PlanVariant& v) { return v.exec == nullptr; };
  if (variants_.empty() || std::ranges::any_of(variants_, is_empty)) {
    throw std::invalid_argument(expected_got("variants", "at least one, with a graph", "none"));
  }
  check_memory();
}

const TensorInfo& CompactInputs::info(const char* name) const {
  const auto found = std::ranges::find(infos_, name, &TensorInfo::name);
  if (found == infos_.end()) {
    throw std::invalid_argument(expected_got(name, "an input", "no such input"));
  }
  return *found;
}

void CompactInputs::check_memory() const {
  require_layout(info("images"), DType::kUint8, 5);
  require_layout(info("image_masks"), DType::kBool, 2);
  require_layout(info("lang_tokens"), DType::kInt64, 2);
  require_layout(info("lang_masks"), DType::kBool, 2);
  // A bundle has the state among its inputs even if its network reads it in the prompt.
  const bool has_state = std::ranges::find(infos_, "state", &TensorInfo::name) != infos_.end();
  const bool reads_state = !block_.state.empty();
  if (infos_.size() != (has_state ? 5U : 4U) || (reads_state && !has_state)) {
    std::string names;
    for (const TensorInfo& i : infos_) names += (names.empty() ? "" : ", ") + i.name;
    throw std::invalid_argument(
        expected_got("inputs",
                     std::string("images, image_masks, lang_tokens, lang_masks") +
                         (reads_state ? ", state" : " and perhaps state"),
                     names));
  }
  if (has_state) require_layout(info("state"), DType::kFloat32, 2);
  if (reads_state) require_bytes("state", info("state").num_bytes(), block_.state.size());
  if (info("image_masks").shape[1] != info("images").shape[1] ||
      info("lang_masks").shape[1] != info("lang_tokens").shape[1]) {
    throw std::invalid_argument(
        expected_got("masks", "one per camera and one per token", "another number"));
  }
  const PlanVariant& most = variants_.back();
  const std::size_t image_bytes =
      info("images").num_bytes() / static_cast<std::size_t>(info("images").shape[1]);
  require_bytes("images", image_bytes * static_cast<std::size_t>(most.num_cameras),
                block_.images.size());
  require_bytes("cameras", sizeof(std::int32_t) * static_cast<std::size_t>(most.num_cameras),
                block_.cameras.size());
  int most_tokens = 0;
  for (const PlanVariant& v : variants_) most_tokens = std::max(most_tokens, v.num_tokens);
  require_bytes("tokens", sizeof(std::int32_t) * static_cast<std::size_t>(most_tokens),
                block_.tokens.size());
  require_bytes("num_tokens", sizeof(std::int32_t), block_.num_tokens.size());
  require_bytes("num_known", sizeof(std::int32_t), block_.num_known.size());
  require_bytes("known", block_.noise.size(), block_.known.size());
}

int CompactInputs::write_images(const TensorView& images, const TensorView& masks) {
  const auto num_cameras = static_cast<std::size_t>(images.shape[1]);
  const std::span is_present(static_cast<const bool*>(masks.data), num_cameras);
  const auto* image = static_cast<const std::byte*>(images.data);
  std::size_t num_bytes = 1;
  for (const std::int64_t size : images.shape.subspan(2)) {
    num_bytes *= static_cast<std::size_t>(size);
  }
  const auto present = static_cast<std::size_t>(std::ranges::count(is_present, true));
  if (present == 0) {
    throw std::invalid_argument(
        expected_got("image_masks", "at least one camera that is present", "none"));
  }
  if (present * num_bytes > block_.images.size()) {
    throw std::invalid_argument(expected_got(
        "image_masks", "at most " + std::to_string(block_.images.size() / num_bytes) + " cameras",
        std::to_string(present)));
  }
  std::size_t written = 0;
  for (std::size_t i = 0; i < num_cameras; ++i) {
    if (!is_present[i]) continue;
    const auto number = static_cast<std::int32_t>(i);
    copy_bytes(image + i * num_bytes, num_bytes, block_.images.subspan(written * num_bytes));
    copy_bytes(&number, sizeof(number), block_.cameras.subspan(written * sizeof(number)));
    ++written;
  }
  return static_cast<int>(present);
}

int CompactInputs::write_tokens(const TensorView& tokens, const TensorView& masks) {
  const auto length = static_cast<std::size_t>(tokens.shape[1]);
  const std::span is_token(static_cast<const bool*>(masks.data), length);
  const std::span words(static_cast<const std::int64_t*>(tokens.data), length);
  const auto count =
      static_cast<std::size_t>(std::ranges::find(is_token, false) - is_token.begin());
  const auto later = std::ranges::find(is_token.subspan(count), true);
  if (later != is_token.end()) {
    throw std::invalid_argument(
        expected_got("lang_masks", "the padding behind the prompt",
                     "padding before token " + std::to_string(later - is_token.begin())));
  }
  const std::size_t places = block_.tokens.size() / sizeof(std::int32_t);
  if (count > places) {
    throw std::invalid_argument(expected_got(
        "lang_masks", "at most " + std::to_string(places) + " tokens", std::to_string(count)));
  }
  const std::span written(reinterpret_cast<std::int32_t*>(block_.tokens.data()), places);
  for (std::size_t i = 0; i < count; ++i) {
    if (words[i] < 0 || words[i] >= vocabulary_size_) {
      throw std::invalid_argument(expected_got(
          "lang_tokens", "0 to " + std::to_string(vocabulary_size_ - 1), std::to_string(words[i])));
    }
    written[i] = static_cast<std::int32_t>(words[i]);
  }
  std::ranges::fill(written.subspan(count), 0);
  return static_cast<int>(count);
}

const PlanVariant& CompactInputs::variant(int num_cameras, int num_tokens) const {
  const auto fits = [=](const PlanVariant& v) {
    return v.num_cameras == num_cameras && v.num_tokens >= num_tokens;
  };
  const auto found = std::ranges::find_if(variants_, fits);
  if (found != variants_.end()) return *found;
  std::vector<int> cameras;
  for (const PlanVariant& v : variants_) {
    if (v.num_tokens >= num_tokens) cameras.push_back(v.num_cameras);
  }
  const auto repeated = std::ranges::unique(cameras);
  cameras.erase(repeated.begin(), repeated.end());
  throw std::invalid_argument(expected_got(
      "image_masks", listed(cameras) + " cameras with " + std::to_string(num_tokens) + " tokens",
      std::to_string(num_cameras)));
}

cuda::GraphExec* CompactInputs::write(std::span<const TensorView> inputs,
                                      std::span<const float> noise,
                                      const Continuation* continuation) {
  const std::int32_t cameras =
      write_images(view_of(inputs, "images"), view_of(inputs, "image_masks"));
  const std::int32_t tokens =
      write_tokens(view_of(inputs, "lang_tokens"), view_of(inputs, "lang_masks"));
  const PlanVariant& chosen = variant(cameras, tokens);
  copy_bytes(&tokens, sizeof(tokens), block_.num_tokens);
  if (!block_.state.empty()) {
    copy_bytes(view_of(inputs, "state").data, block_.state.size(), block_.state);
  }
  copy_bytes(noise.data(), noise.size_bytes(), block_.noise);
  const std::int32_t known = continuation == nullptr ? 0 : continuation->prefix_len;
  copy_bytes(&known, sizeof(known), block_.num_known);
  if (continuation != nullptr) {
    const std::size_t num_values = static_cast<std::size_t>(known) * action_dim_;
    copy_bytes(continuation->previous.data(), num_values * sizeof(float), block_.known);
  }
  return chosen.exec;
}

}  // namespace flux
