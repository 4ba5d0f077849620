// The inputs of a plan's graphs: only the cameras that are present and the prompt without its
// padding, for the smallest graph that takes them.
//
// Letters in shapes: C cameras, L prompt tokens, S state_dim, H action_horizon, A action_dim.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "flux/captured_policy.hpp"

namespace flux {

// A graph for so many cameras, and for prompts of at most so many tokens.
struct PlanVariant {
  int num_cameras = 0;
  int num_tokens = 0;
  cuda::GraphExec* exec = nullptr;
};

// Page-locked memory that the graphs copy to the card.
struct InputBlock {
  std::span<std::byte> images;      // uint8 (C, h, w, 3), the present cameras one after the other
  std::span<std::byte> cameras;     // int32 (C), the number of each among all cameras
  std::span<std::byte> tokens;      // int32 (L), 0 behind the prompt
  std::span<std::byte> num_tokens;  // int32
  std::span<std::byte> state;       // float32 (S); empty if the network reads none
  std::span<std::byte> noise;       // float32 (H, A)
  std::span<std::byte> known;       // float32 (H, A); the first num_known rows count
  std::span<std::byte> num_known;   // int32
};

class CompactInputs final : public CapturedInputs {
 public:
  // Args:
  //   infos: of images (1, C, h, w, 3), image_masks (1, C), lang_tokens and lang_masks (1, L), and
  //     of state (1, S), which is not read if there is no memory for it.
  //   vocabulary_size: a token's number is below it.
  //
  // Throws std::invalid_argument, naming the tensor, if the memory does not fit the inputs, or if
  // there is no variant.
  CompactInputs(std::vector<TensorInfo> infos, const InputBlock& block,
                std::vector<PlanVariant> variants, std::int64_t vocabulary_size, int action_dim);

  [[nodiscard]] std::vector<TensorInfo> infos() const override { return infos_; }
  [[nodiscard]] bool takes_prefix() const noexcept override { return true; }
  // Throws if no camera is present, if a prompt has padding before a token or is longer than every
  // variant's, or if there is no variant for that many cameras.
  [[nodiscard]] cuda::GraphExec* write(std::span<const TensorView> inputs,
                                       std::span<const float> noise,
                                       const Continuation* continuation) override;

 private:
  void check_memory() const;
  [[nodiscard]] const TensorInfo& info(const char* name) const;
  [[nodiscard]] const PlanVariant& variant(int num_cameras, int num_tokens) const;
  [[nodiscard]] int write_images(const TensorView& images, const TensorView& masks);
  [[nodiscard]] int write_tokens(const TensorView& tokens, const TensorView& masks);

  std::vector<TensorInfo> infos_;
  InputBlock block_;
  std::vector<PlanVariant> variants_;  // by cameras, then by tokens
  std::int64_t vocabulary_size_;
  std::size_t action_dim_;
};

}  // namespace flux
