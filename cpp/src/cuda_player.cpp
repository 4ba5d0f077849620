#include "flux/cuda_player.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "flux/engine.hpp"
#include "flux/tensor.hpp"

namespace flux::cuda {
namespace {

// Constants of the driver's header.
constexpr int kComputeCapabilityMajor = 75;
constexpr int kComputeCapabilityMinor = 76;
constexpr int kMaxSharedBytesOptIn = 97;
constexpr int kMaxDynamicSharedBytes = 8;  // of a function
constexpr unsigned kNonBlocking = 1;       // a stream that does not wait for the default one
constexpr int kCaptureThreadLocal = 1;

constexpr std::size_t kSharedBytesWithoutOptIn = 48 * 1024;
constexpr std::size_t kAlignment = 256;  // of buffers
constexpr std::size_t kScratchAddresses = 2;
constexpr std::size_t kMebibyte = 1024 * 1024;

std::size_t aligned(std::size_t offset, std::size_t alignment) {
  return (offset + alignment - 1) / alignment * alignment;
}

std::string mebibytes(std::size_t num_bytes) {
  return std::to_string((num_bytes + kMebibyte / 2) / kMebibyte);
}

std::string describe_parameter(const Parameter& parameter) {
  return std::to_string(parameter.num_bytes) + " bytes at " + std::to_string(parameter.offset);
}

std::string capability(int major, int minor) {
  return std::to_string(major) + "." + std::to_string(minor);
}

}  // namespace

bool runs_on(std::string_view architecture, int major, int minor) noexcept {
  constexpr std::string_view kPrefix = "sm_";
  if (!architecture.starts_with(kPrefix)) return false;
  const std::string_view rest = architecture.substr(kPrefix.size());
  int number = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  if (error != std::errc() || number / 10 != major) return false;
  const std::string_view suffix(end, static_cast<std::size_t>(rest.data() + rest.size() - end));
  if (suffix == "a") return number % 10 == minor;
  return (suffix.empty() || suffix == "f") && number % 10 <= minor;
}

std::vector<std::byte> pack_parameters(
    std::span<const LaunchArgument> arguments,
    const std::function<DeviceAddress(const BufferAddress&)>& address,
    std::vector<Parameter>* table) {
  std::vector<std::byte> block;
  const auto add = [&](const auto& value) {
    const std::size_t offset = aligned(block.size(), sizeof(value));
    block.resize(offset + sizeof(value));
    std::memcpy(block.data() + offset, &value, sizeof(value));
    table->push_back({offset, sizeof(value)});
  };
  for (const LaunchArgument& argument : arguments) {
    if (const auto* place = std::get_if<BufferAddress>(&argument)) {
      add(static_cast<std::uint64_t>(address(*place)));
    } else if (const auto* integer = std::get_if<std::int32_t>(&argument)) {
      add(*integer);
    } else {
      add(std::get<float>(argument));
    }
  }
  for (std::size_t i = 0; i < kScratchAddresses; ++i) add(std::uint64_t{0});
  return block;
}

Player::Player(PlayerSettings settings)
    : settings_(std::move(settings)), calls_(load_player_calls(settings_.library)) {
  place_buffers();
  open_card();
  check_architecture();
  load_kernels();
  allocate();
}

// Whoever destroys it may be another thread than the one that made it.
Player::~Player() { calls_.cuCtxSetCurrent(context_); }

void Player::open_card() {
  int count = 0;
  check(calls_.cuInit(0), "cuInit");
  check(calls_.cuDeviceGetCount(&count), "cuDeviceGetCount");
  if (count < 1) throw EngineUnavailable(expected_got("card", "an NVIDIA card", "none"));
  check(calls_.cuDeviceGet(&device_, 0), "cuDeviceGet");
  std::array<char, 256> name{};
  check(calls_.cuDeviceGetName(name.data(), static_cast<int>(name.size()) - 1, device_),
        "cuDeviceGetName");
  card_ = name.data();
  check(calls_.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
  releases_.add([this] { calls_.cuDevicePrimaryCtxRelease_v2(device_); });
  check(calls_.cuCtxSetCurrent(context_), "cuCtxSetCurrent");
  check(calls_.cuStreamCreate(&stream_, kNonBlocking), "cuStreamCreate");
  releases_.add([this] { calls_.cuStreamDestroy_v2(stream_); });
}

void Player::check_architecture() const {
  const int major = attribute(kComputeCapabilityMajor);
  const int minor = attribute(kComputeCapabilityMinor);
  if (runs_on(settings_.architecture, major, minor)) return;
  throw EngineUnavailable(expected_got(
      "architecture", "cubins for compute capability " + capability(major, minor) + " of " + card_,
      "cubins for " + settings_.architecture));
}

void Player::load_kernels() {
  const auto most = static_cast<std::size_t>(attribute(kMaxSharedBytesOptIn));
  functions_.reserve(settings_.kernels.size());
  for (Kernel& kernel : settings_.kernels) {
    load_kernel(kernel, most);
    kernel.cubin = {};
  }
}

void Player::load_kernel(const Kernel& kernel, std::size_t max_shared_bytes) {
  const std::string where = "kernel " + kernel.name;
  if (kernel.shared_bytes > max_shared_bytes) {
    throw EngineUnavailable(expected_got(
        where,
        "at most " + std::to_string(max_shared_bytes) + " bytes of shared memory on " + card_,
        std::to_string(kernel.shared_bytes)));
  }
  Module* module = nullptr;
  const int code = calls_.cuModuleLoadData(&module, kernel.cubin.data());
  if (code == kInvalidImage || code == kNoBinaryForGpu) {
    throw EngineUnavailable(
        expected_got(where, "a cubin for " + settings_.architecture,
                     code == kInvalidImage
                         ? "one that is damaged (CUDA_ERROR_INVALID_IMAGE)"
                         : "one without code for " + card_ + " (CUDA_ERROR_NO_BINARY_FOR_GPU)"));
  }
  check(code, where + ": cuModuleLoadData");
  releases_.add([this, module] { calls_.cuModuleUnload(module); });
  Function* function = nullptr;
  check(calls_.cuModuleGetFunction(&function, module, kernel.symbol.c_str()),
        where + ": cuModuleGetFunction");
  if (kernel.shared_bytes > kSharedBytesWithoutOptIn) {
    check(calls_.cuFuncSetAttribute(function, kMaxDynamicSharedBytes,
                                    static_cast<int>(kernel.shared_bytes)),
          where + ": cuFuncSetAttribute");
  }
  functions_.push_back(function);
}

// Inputs come first, so that one copy fills them.
void Player::place_buffers() {
  const std::vector<PlanBuffer>& buffers = settings_.buffers;
  offsets_.resize(buffers.size());
  is_uploaded_.resize(buffers.size());
  const auto place = [&](bool is_input) {
    for (std::size_t i = 0; i < buffers.size(); ++i) {
      if ((buffers[i].role == BufferRole::kInput) != is_input) continue;
      if (buffers[i].num_bytes == 0) {
        throw std::invalid_argument(
            expected_got("buffer " + buffers[i].name, "at least one byte", "none"));
      }
      offsets_[i] = num_device_bytes_;
      num_device_bytes_ = aligned(num_device_bytes_ + buffers[i].num_bytes, kAlignment);
    }
  };
  place(true);
  num_input_bytes_ = num_device_bytes_;
  place(false);
  const auto is_output = [](const PlanBuffer& b) { return b.role == BufferRole::kOutput; };
  if (num_input_bytes_ == 0 || std::ranges::count_if(buffers, is_output) != 1) {
    throw std::invalid_argument(
        expected_got("buffers", "inputs and a single output", "other buffers"));
  }
  output_ = static_cast<std::size_t>(std::ranges::find_if(buffers, is_output) - buffers.begin());
}

void Player::allocate() {
  std::size_t num_free = 0;
  std::size_t total = 0;
  check(calls_.cuMemGetInfo_v2(&num_free, &total), "cuMemGetInfo");
  const int code =
      num_device_bytes_ > total ? kOutOfMemory : calls_.cuMemAlloc_v2(&memory_, num_device_bytes_);
  if (code == kOutOfMemory) {
    throw EngineUnavailable(expected_got("memory of " + card_,
                                         mebibytes(num_device_bytes_) + " MiB free",
                                         mebibytes(num_free) + " of " + mebibytes(total) + " MiB"));
  }
  check(code, "cuMemAlloc");
  releases_.add([this] { calls_.cuMemFree_v2(memory_); });
  const auto host = [this](std::byte** block, std::size_t num_bytes) {
    void* memory = nullptr;
    check(calls_.cuMemHostAlloc(&memory, num_bytes, 0), "cuMemHostAlloc");
    releases_.add([this, memory] { calls_.cuMemFreeHost(memory); });
    std::memset(memory, 0, num_bytes);
    *block = static_cast<std::byte*>(memory);
  };
  host(&input_block_, num_input_bytes_);
  host(&output_block_, settings_.buffers[output_].num_bytes);
  check(calls_.cuMemsetD8Async(memory_, 0, num_device_bytes_, stream_), "cuMemsetD8Async");
  check(calls_.cuStreamSynchronize(stream_), "cuStreamSynchronize");
}

std::size_t Player::number_of(std::string_view name, BufferRole role) const noexcept {
  const auto found = std::ranges::find_if(
      settings_.buffers, [&](const PlanBuffer& b) { return b.name == name && b.role == role; });
  return static_cast<std::size_t>(found - settings_.buffers.begin());
}

void Player::upload(std::string_view name, std::span<const std::byte> content) {
  const std::string where = "constant " + std::string(name);
  const std::size_t number = number_of(name, BufferRole::kConstant);
  if (number == settings_.buffers.size()) {
    throw std::invalid_argument(expected_got(where, "a constant of the plan", "another name"));
  }
  const std::size_t num_bytes = settings_.buffers[number].num_bytes;
  if (content.size() != num_bytes) {
    throw std::invalid_argument(
        expected_got(where, std::to_string(num_bytes) + " bytes", std::to_string(content.size())));
  }
  check(calls_.cuCtxSetCurrent(context_), "cuCtxSetCurrent");
  check(calls_.cuMemcpyHtoDAsync_v2(memory_ + offsets_[number], content.data(), num_bytes, stream_),
        where + ": cuMemcpyHtoDAsync");
  check(calls_.cuStreamSynchronize(stream_), where + ": cuStreamSynchronize");
  is_uploaded_[number] = true;
}

DeviceAddress Player::address_of(const BufferAddress& address, const std::string& where) const {
  const std::vector<PlanBuffer>& buffers = settings_.buffers;
  if (address.buffer >= buffers.size()) {
    throw std::invalid_argument(
        expected_got(where, "one of " + std::to_string(buffers.size()) + " buffers",
                     "buffer " + std::to_string(address.buffer)));
  }
  const PlanBuffer& buffer = buffers[address.buffer];
  if (address.offset >= buffer.num_bytes) {
    throw std::invalid_argument(expected_got(
        where,
        "an offset below " + buffer.name + "'s " + std::to_string(buffer.num_bytes) + " bytes",
        std::to_string(address.offset)));
  }
  if (buffer.role == BufferRole::kConstant && !is_uploaded_[address.buffer]) {
    throw std::invalid_argument(
        expected_got(where, "a constant that is uploaded", buffer.name + ", which is not"));
  }
  return memory_ + offsets_[address.buffer] + address.offset;
}

std::vector<std::byte> Player::pack(const PlanLaunch& launch, const std::string& where) const {
  std::vector<Parameter> table;
  const auto address = [&](const BufferAddress& place) { return address_of(place, where); };
  std::vector<std::byte> block = pack_parameters(launch.arguments, address, &table);
  const std::vector<Parameter>& expected = settings_.kernels[launch.kernel].parameters;
  if (table.size() != expected.size()) {
    throw std::invalid_argument(
        expected_got(where, "the " + std::to_string(expected.size()) + " parameters of the cubin",
                     std::to_string(table.size())));
  }
  for (std::size_t i = 0; i < table.size(); ++i) {
    if (table[i].offset == expected[i].offset && table[i].num_bytes == expected[i].num_bytes) {
      continue;
    }
    throw std::invalid_argument(expected_got(where + ", parameter " + std::to_string(i),
                                             describe_parameter(expected[i]) + " as in the cubin",
                                             describe_parameter(table[i])));
  }
  return block;
}

std::string Player::text_of(const std::string& variant, std::span<const Packed> launches,
                            std::size_t number) const {
  const PlanLaunch& launch = *launches[number].launch;
  return variant + ", launch " + std::to_string(number) + " (" + launch.stage + ", " +
         settings_.kernels[launch.kernel].name + ")";
}

void Player::enqueue(std::span<const Packed> launches, std::size_t num_input_bytes,
                     const std::string& variant) {
  check(calls_.cuMemcpyHtoDAsync_v2(memory_, input_block_, num_input_bytes, stream_),
        variant + ": cuMemcpyHtoDAsync");
  for (std::size_t i = 0; i < launches.size(); ++i) {
    const auto& [launch, parameters] = launches[i];
    const Kernel& kernel = settings_.kernels[launch->kernel];
    // CU_LAUNCH_PARAM_BUFFER_POINTER, CU_LAUNCH_PARAM_BUFFER_SIZE, CU_LAUNCH_PARAM_END: the driver
    // reads the block during the call.
    std::size_t size = parameters.size();
    std::array<void*, 5> extra{reinterpret_cast<void*>(1),
                               const_cast<std::byte*>(parameters.data()),
                               reinterpret_cast<void*>(2), &size, nullptr};
    const auto& [x, y, z] = launch->grid;
    const int code = calls_.cuLaunchKernel(functions_[launch->kernel], x, y, z, kernel.num_threads,
                                           1, 1, static_cast<unsigned>(kernel.shared_bytes),
                                           stream_, nullptr, extra.data());
    if (code != kSuccess) check(code, text_of(variant, launches, i) + ": cuLaunchKernel");
  }
  check(calls_.cuMemcpyDtoHAsync_v2(output_block_, memory_ + offsets_[output_],
                                    settings_.buffers[output_].num_bytes, stream_),
        variant + ": cuMemcpyDtoHAsync");
}

GraphExec* Player::capture(const std::string& variant, std::span<const PlanLaunch> launches,
                           std::size_t num_input_bytes) {
  if (num_input_bytes == 0 || num_input_bytes > num_input_bytes_) {
    throw std::invalid_argument(
        expected_got(variant, "1 to " + std::to_string(num_input_bytes_) + " bytes of inputs",
                     std::to_string(num_input_bytes)));
  }
  std::vector<Packed> packed;
  packed.reserve(launches.size());
  for (const PlanLaunch& launch : launches) {
    const std::string where = variant + ", launch " + std::to_string(packed.size());
    if (launch.kernel >= settings_.kernels.size()) {
      throw std::invalid_argument(
          expected_got(where, "one of " + std::to_string(settings_.kernels.size()) + " kernels",
                       "kernel " + std::to_string(launch.kernel)));
    }
    packed.push_back({&launch, {}});
    packed.back().parameters = pack(launch, text_of(variant, packed, packed.size() - 1));
  }
  check(calls_.cuCtxSetCurrent(context_), "cuCtxSetCurrent");
  // Without capture first: the driver loads code at the first launch, and a fault shows here.
  enqueue(packed, num_input_bytes, variant);
  check(calls_.cuStreamSynchronize(stream_), variant + ": cuStreamSynchronize");
  check(calls_.cuStreamBeginCapture_v2(stream_, kCaptureThreadLocal),
        variant + ": cuStreamBeginCapture");
  Graph* graph = nullptr;
  Releases temporary;
  try {
    enqueue(packed, num_input_bytes, variant);
  } catch (...) {
    // A stream that is being captured accepts no other work.
    if (calls_.cuStreamEndCapture(stream_, &graph) == kSuccess && graph != nullptr) {
      calls_.cuGraphDestroy(graph);
    }
    throw;
  }
  check(calls_.cuStreamEndCapture(stream_, &graph), variant + ": cuStreamEndCapture");
  temporary.add([this, graph] { calls_.cuGraphDestroy(graph); });
  GraphExec* exec = nullptr;
  check(calls_.cuGraphInstantiateWithFlags(&exec, graph, 0),
        variant + ": cuGraphInstantiateWithFlags");
  releases_.add([this, exec] { calls_.cuGraphExecDestroy(exec); });
  check(calls_.cuGraphUpload(exec, stream_), variant + ": cuGraphUpload");
  check(calls_.cuStreamSynchronize(stream_), variant + ": cuStreamSynchronize");
  return exec;
}

std::span<std::byte> Player::input(std::string_view name) noexcept {
  const std::size_t number = number_of(name, BufferRole::kInput);
  if (number == settings_.buffers.size()) return {};
  return {input_block_ + offsets_[number], settings_.buffers[number].num_bytes};
}

std::span<const std::byte> Player::output() const noexcept {
  return {output_block_, settings_.buffers[output_].num_bytes};
}

std::size_t Player::input_offset(std::string_view name) const {
  const std::size_t number = number_of(name, BufferRole::kInput);
  if (number == settings_.buffers.size()) {
    throw std::invalid_argument(
        expected_got(std::string(name), "an input of the plan", "another name"));
  }
  return offsets_[number];
}

int Player::attribute(int number) const {
  int value = 0;
  check(calls_.cuDeviceGetAttribute(&value, number, device_), "cuDeviceGetAttribute");
  return value;
}

void Player::check(int code, const std::string& call) const {
  require_success(code, call.c_str(), calls_.cuGetErrorName);
}

}  // namespace flux::cuda
