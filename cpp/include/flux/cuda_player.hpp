// A launch plan on an NVIDIA GPU: compiled kernels, all memory of an inference, and a CUDA graph
// for each variant of the plan. It calls the driver only.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "flux/cuda_abi.hpp"

namespace flux::cuda {

// Where a parameter lies in the block of all of a kernel's parameters, in bytes.
struct Parameter {
  std::size_t offset = 0;
  std::size_t num_bytes = 0;
};

// A kernel that Triton has compiled.
struct Kernel {
  std::string name;  // for messages
  std::string symbol;
  std::span<const std::byte> cubin;  // read by Player's constructor only
  unsigned num_threads = 0;
  std::size_t shared_bytes = 0;  // dynamic
  // As the cubin has them. The last two are addresses of scratch memory, which Triton adds.
  std::vector<Parameter> parameters = {};
};

// Who fills a buffer: the host before every inference, the host once, or kernels. The output is
// what the host reads.
enum class BufferRole { kInput, kConstant, kWork, kOutput };

struct PlanBuffer {
  std::string name;
  std::size_t num_bytes = 0;
  BufferRole role = BufferRole::kWork;
};

struct BufferAddress {
  std::size_t buffer = 0;  // its number
  std::size_t offset = 0;  // in bytes
};

using LaunchArgument = std::variant<BufferAddress, std::int32_t, float>;

struct PlanLaunch {
  std::string stage;  // for messages
  std::size_t kernel = 0;
  std::array<unsigned, 3> grid{1, 1, 1};
  std::vector<LaunchArgument> arguments = {};  // of all parameters but the two of scratch memory
};

// The arguments of Player's constructor.
struct PlayerSettings {
  std::string library = "libcuda.so.1";
  std::string architecture;  // of the cubins, such as "sm_90a"
  std::vector<Kernel> kernels = {};
  std::vector<PlanBuffer> buffers = {};  // inputs are laid out in this order, in one block
};

// Calls its functions when it is destroyed, the last one first.
class Releases {
 public:
  Releases() = default;
  Releases(const Releases&) = delete;
  Releases& operator=(const Releases&) = delete;
  ~Releases() {
    while (!functions_.empty()) {
      functions_.back()();
      functions_.pop_back();
    }
  }

  void add(std::function<void()> function) { functions_.push_back(std::move(function)); }

 private:
  std::vector<std::function<void()>> functions_;
};

// Used by one thread at a time. A constructor that throws releases everything. Functions throw
// EngineUnavailable if this machine or its cubins are the reason, std::invalid_argument, naming the
// value, if the plan is, and std::runtime_error if the driver refuses anything else.
class Player {
 public:
  // Loads all kernels and allocates all memory.
  explicit Player(PlayerSettings settings);
  Player(const Player&) = delete;
  Player& operator=(const Player&) = delete;
  ~Player();

  // Copies a whole constant to the card.
  void upload(std::string_view name, std::span<const std::byte> content);
  // Runs a variant of the plan once, and captures it with the copy of the first `num_input_bytes`
  // of the input block before it and the copy of the output after it. All constants must be
  // uploaded.
  GraphExec* capture(const std::string& variant, std::span<const PlanLaunch> launches,
                     std::size_t num_input_bytes);

  // Page-locked memory of an input, or of the output; empty if there is no such buffer.
  [[nodiscard]] std::span<std::byte> input(std::string_view name) noexcept;
  [[nodiscard]] std::span<const std::byte> output() const noexcept;
  // Where an input begins in the block. Throws std::invalid_argument if there is none.
  [[nodiscard]] std::size_t input_offset(std::string_view name) const;

  [[nodiscard]] const std::string& library() const noexcept { return settings_.library; }
  [[nodiscard]] const std::string& card() const noexcept { return card_; }
  [[nodiscard]] std::size_t num_device_bytes() const noexcept { return num_device_bytes_; }
  [[nodiscard]] Context* context() const noexcept { return context_; }
  [[nodiscard]] Stream* stream() const noexcept { return stream_; }

 private:
  // A launch as the driver takes it.
  struct Packed {
    const PlanLaunch* launch = nullptr;
    std::vector<std::byte> parameters;
  };

  void open_card();
  void check_architecture() const;
  void load_kernels();
  void load_kernel(const Kernel& kernel, std::size_t max_shared_bytes);
  void place_buffers();
  void allocate();
  // The number of buffers if there is no such one.
  [[nodiscard]] std::size_t number_of(std::string_view name, BufferRole role) const noexcept;
  [[nodiscard]] int attribute(int number) const;
  [[nodiscard]] DeviceAddress address_of(const BufferAddress& address,
                                         const std::string& where) const;
  [[nodiscard]] std::vector<std::byte> pack(const PlanLaunch& launch,
                                            const std::string& where) const;
  void enqueue(std::span<const Packed> launches, std::size_t num_input_bytes,
               const std::string& variant);
  [[nodiscard]] std::string text_of(const std::string& variant, std::span<const Packed> launches,
                                    std::size_t number) const;
  void check(int code, const std::string& call) const;

  PlayerSettings settings_;
  PlayerCalls calls_;
  int device_ = 0;
  std::string card_;
  Context* context_ = nullptr;
  Stream* stream_ = nullptr;
  std::vector<Function*> functions_;  // of the kernels
  std::vector<std::size_t> offsets_;  // of the buffers
  std::vector<bool> is_uploaded_;     // of the buffers
  std::size_t num_input_bytes_ = 0;   // of the block, with which the memory begins
  std::size_t output_ = 0;            // its number
  std::size_t num_device_bytes_ = 0;
  DeviceAddress memory_ = 0;
  std::byte* input_block_ = nullptr;
  std::byte* output_block_ = nullptr;
  Releases releases_;  // destroyed first
};

// Whether cubins for `architecture` run on a card: those of sm_90a on exactly that one, those of
// sm_86 on later ones of the same generation too.
[[nodiscard]] bool runs_on(std::string_view architecture, int major, int minor) noexcept;

// The block of a launch's parameters: in order, naturally aligned, then two null addresses.
// `address` maps a buffer's address to the card's.
[[nodiscard]] std::vector<std::byte> pack_parameters(
    std::span<const LaunchArgument> arguments,
    const std::function<DeviceAddress(const BufferAddress&)>& address,
    std::vector<Parameter>* table);

}  // namespace flux::cuda
