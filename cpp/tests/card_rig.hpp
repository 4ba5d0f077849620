// A small plan on the fake card: all inputs of a real one, and two kernels.
#pragma once

#include <dlfcn.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "fake_card.hpp"
#include "flux/captured_policy.hpp"
#include "flux/compact_inputs.hpp"
#include "flux/cuda_player.hpp"

namespace flux::test {

// The controls of the library that stands in for the driver.
struct FakeCard {
  FakeCard() : handle(::dlopen(FLUX_FAKE_CARD, RTLD_NOW | RTLD_LOCAL)) { reset(); }

  int reset(int major = 9, int minor = 0, std::size_t shared_limit = 232448,
            std::size_t total = std::size_t{1} << 30, std::size_t free = std::size_t{1} << 30) {
    return call<decltype(fake_reset)>("fake_reset")(major, minor, shared_limit, total, free);
  }
  void kernel(const char* symbol, FakeKernel run) {
    call<decltype(fake_kernel)>("fake_kernel")(symbol, run);
  }
  void refuse(const char* name, int successes, int code) {
    call<decltype(fake_refuse)>("fake_refuse")(name, successes, code);
  }
  void record(bool is_on) { call<decltype(fake_record)>("fake_record")(is_on); }
  [[nodiscard]] std::string log() { return call<decltype(fake_log)>("fake_log")(); }
  [[nodiscard]] int live(const char* kind = "") {
    return call<decltype(fake_live)>("fake_live")(kind);
  }

  template <typename Signature>
  Signature* call(const char* name) {
    return reinterpret_cast<Signature*>(::dlsym(handle, name));
  }

  void* handle;
};

namespace toy {

inline constexpr int kCameras = 3;
inline constexpr int kImageBytes = 2 * 2 * 3;
inline constexpr int kTokens = 8;
inline constexpr int kState = 2;
inline constexpr int kHorizon = 4;
inline constexpr int kDim = 3;
inline constexpr int kActions = kHorizon * kDim;
inline constexpr std::int64_t kVocabulary = 1000;

enum BufferNumber : std::size_t {
  kCamerasInput,
  kTokensInput,
  kNumTokens,
  kStateInput,
  kNoise,
  kKnown,
  kNumKnown,
  kImages,
  kOffset,
  kWork,
  kOutput
};

// What follows the addresses and numbers in the block.
struct Scratch {
  std::uint64_t global = 1;
  std::uint64_t profile = 1;
};

// work = noise + offset + everything that the inputs say, as one number.
struct Digest {
  const std::uint8_t* images;
  const std::int32_t* cameras;
  const std::int32_t* tokens;
  const std::int32_t* num_tokens;
  const float* state;
  const float* noise;
  const float* offset;
  float* work;
  std::int32_t num_cameras;
  std::int32_t num_places;
  float scale;
  std::int32_t unused_padding;
  Scratch scratch;
};

// actions = work, but known rows.
struct Finish {
  const float* work;
  const float* known;
  const std::int32_t* num_known;
  float* actions;
  Scratch scratch;
};

inline float digest_of(const Digest& d) {
  float sum = 1e4F * static_cast<float>(d.num_cameras) + 1e3F * static_cast<float>(d.num_places);
  for (int camera = 0; camera < d.num_cameras; ++camera) {
    sum += static_cast<float>(d.images[camera * kImageBytes + kImageBytes - 1]) *
           static_cast<float>(d.cameras[camera] + 1);
  }
  for (int i = 0; i < *d.num_tokens; ++i) sum += static_cast<float>(d.tokens[i]);
  for (int i = *d.num_tokens; i < d.num_places; ++i) sum += 1e6F * static_cast<float>(d.tokens[i]);
  return sum + d.state[0] * d.scale;
}

inline void run_digest(const unsigned* /*grid*/, const unsigned char* parameters) {
  Digest d;
  std::memcpy(&d, parameters, sizeof(d));
  for (int i = 0; i < kActions; ++i) d.work[i] = d.noise[i] + d.offset[0] + digest_of(d);
}

inline void run_finish(const unsigned* /*grid*/, const unsigned char* parameters) {
  Finish f;
  std::memcpy(&f, parameters, sizeof(f));
  for (int i = 0; i < kActions; ++i) {
    f.actions[i] = i < *f.num_known * kDim ? f.known[i] : f.work[i];
  }
}

inline std::vector<cuda::Parameter> addresses(std::size_t count) {
  std::vector<cuda::Parameter> table;
  for (std::size_t i = 0; i < count; ++i) table.push_back({8 * i, 8});
  return table;
}

inline std::vector<cuda::Parameter> digest_table() {
  std::vector<cuda::Parameter> table = addresses(8);
  for (const cuda::Parameter& number :
       {cuda::Parameter{64, 4}, {68, 4}, {72, 4}, {80, 8}, {88, 8}}) {
    table.push_back(number);
  }
  return table;
}

inline std::span<const std::byte> image(const char* text) {
  return std::as_bytes(std::span(text, std::strlen(text)));
}

inline cuda::PlayerSettings settings() {
  using enum cuda::BufferRole;
  const auto floats = [](int count) { return sizeof(float) * static_cast<std::size_t>(count); };
  return {.library = FLUX_FAKE_CARD,
          .architecture = "sm_90a",
          .kernels = {{.name = "digest",
                       .symbol = "digest_kernel",
                       .cubin = image("FAKE sm_90 digest_kernel"),
                       .num_threads = 128,
                       .shared_bytes = 65536,
                       .parameters = digest_table()},
                      {.name = "finish",
                       .symbol = "finish_kernel",
                       .cubin = image("FAKE sm_90 finish_kernel"),
                       .num_threads = 64,
                       .parameters = addresses(6)}},
          .buffers = {{"cameras", floats(kCameras), kInput},
                      {"tokens", floats(kTokens), kInput},
                      {"num_tokens", 4, kInput},
                      {"state", floats(kState), kInput},
                      {"noise", floats(kActions), kInput},
                      {"known", floats(kActions), kInput},
                      {"num_known", 4, kInput},
                      {"images", kCameras * kImageBytes, kInput},
                      {"offset", 4, kConstant},
                      {"x", floats(kActions), kWork},
                      {"actions", floats(kActions), kOutput}}};
}

inline std::vector<cuda::PlanLaunch> launches(int num_cameras, int num_tokens) {
  const auto at = [](std::size_t buffer) { return cuda::BufferAddress{.buffer = buffer}; };
  return {{.stage = "prefix",
           .kernel = 0,
           .grid = {2, 3, 1},
           .arguments = {at(kImages), at(kCamerasInput), at(kTokensInput), at(kNumTokens),
                         at(kStateInput), at(kNoise), at(kOffset), at(kWork), num_cameras,
                         num_tokens, 0.5F}},
          {.stage = "steps",
           .kernel = 1,
           .arguments = {at(kWork), at(kKnown), at(kNumKnown), at(kOutput)}}};
}

inline std::vector<TensorInfo> infos() {
  return {{.name = "images", .dtype = DType::kUint8, .shape = {1, kCameras, 2, 2, 3}},
          {.name = "image_masks", .dtype = DType::kBool, .shape = {1, kCameras}},
          {.name = "lang_tokens", .dtype = DType::kInt64, .shape = {1, kTokens}},
          {.name = "lang_masks", .dtype = DType::kBool, .shape = {1, kTokens}},
          {.name = "state", .shape = {1, kState}}};
}

inline std::shared_ptr<cuda::Player> player(cuda::PlayerSettings with = settings()) {
  auto player = std::make_shared<cuda::Player>(std::move(with));
  const float offset = 0.25F;
  player->upload("offset", std::as_bytes(std::span(&offset, 1)));
  return player;
}

inline std::size_t input_bytes(const cuda::Player& player, int num_cameras) {
  return player.input_offset("images") + static_cast<std::size_t>(num_cameras * kImageBytes);
}

inline cuda::GraphExec* capture(cuda::Player& player, int num_cameras, int num_tokens) {
  return player.capture(
      std::to_string(num_cameras) + " cameras, " + std::to_string(num_tokens) + " tokens",
      launches(num_cameras, num_tokens), input_bytes(player, num_cameras));
}

inline InputBlock block(cuda::Player& player) {
  return {.images = player.input("images"),
          .cameras = player.input("cameras"),
          .tokens = player.input("tokens"),
          .num_tokens = player.input("num_tokens"),
          .state = player.input("state"),
          .noise = player.input("noise"),
          .known = player.input("known"),
          .num_known = player.input("num_known")};
}

// Variants of 1 to 3 cameras and 4 or 8 tokens.
inline std::shared_ptr<CapturedPolicy> policy(const std::shared_ptr<cuda::Player>& player) {
  std::vector<PlanVariant> variants;
  for (const int cameras : {3, 1, 2}) {
    for (const int tokens : {8, 4}) {
      variants.push_back({cameras, tokens, capture(*player, cameras, tokens)});
    }
  }
  return std::make_shared<CapturedPolicy>(CapturedGraphs{
      .driver = player->library(),
      .context = player->context(),
      .stream = player->stream(),
      .inputs =
          std::make_unique<CompactInputs>(infos(), block(*player), variants, kVocabulary, kDim),
      .actions = reinterpret_cast<const float*>(player->output().data()),
      .action_horizon = kHorizon,
      .action_dim = kDim,
      .owner = player});
}

// An observation, and the answer to it.
struct Call {
  std::array<std::uint8_t, kCameras * kImageBytes> images{};
  std::array<bool, kCameras> image_masks{true, true, true};
  std::array<std::int64_t, kTokens> tokens{5, 6, 7, 999, 999, 999, 999, 999};
  std::array<bool, kTokens> token_masks{true, true, true};
  std::array<float, kState> state{4.0F, 0.0F};
  std::array<float, kActions> noise{};
  std::array<float, kActions> actions{};
  std::vector<TensorInfo> shapes = infos();

  Call() {
    for (std::size_t i = 1; i <= kCameras; ++i) {
      images[i * kImageBytes - 1] = static_cast<std::uint8_t>(10 * i);
    }
    for (std::size_t i = 0; i < kActions; ++i) noise[i] = static_cast<float>(i);
  }

  [[nodiscard]] std::array<TensorView, 5> views() const {
    const void* data[] = {images.data(), image_masks.data(), tokens.data(), token_masks.data(),
                          state.data()};
    std::array<TensorView, 5> all;
    for (std::size_t i = 0; i < all.size(); ++i) {
      all[i] = {shapes[i].name, shapes[i].dtype, shapes[i].shape, data[i]};
    }
    return all;
  }

  void infer(Policy& policy, const Continuation* continuation = nullptr,
             const std::atomic<bool>* cancel = nullptr) {
    const auto inputs = views();
    policy.infer(inputs, noise, actions, nullptr, cancel, continuation);
  }
};

}  // namespace toy

// The fake card with the toy's kernels.
struct CardRig : FakeCard {
  CardRig() {
    kernel("digest_kernel", toy::run_digest);
    kernel("finish_kernel", toy::run_finish);
  }
};

}  // namespace flux::test
