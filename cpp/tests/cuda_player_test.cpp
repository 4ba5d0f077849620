// A plan on the fake card: launches, graphs, errors and what is released.
#include "flux/cuda_player.hpp"

#include <algorithm>
#include <thread>

#include "allocations.hpp"
#include "card_rig.hpp"
#include "flux/engine.hpp"

namespace flux::test {
namespace {

std::vector<std::string> lines_of(const std::string& log, const std::string& begin) {
  std::vector<std::string> found;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with(begin)) found.push_back(line);
  }
  return found;
}

template <typename Exception>
std::string error_of(cuda::PlayerSettings settings) {
  return message_of<Exception>([&] { cuda::Player player(std::move(settings)); });
}

void a_block_is_naturally_aligned_and_ends_with_two_scratch_addresses() {
  std::vector<cuda::Parameter> table;
  const std::vector<cuda::LaunchArgument> arguments{
      std::int32_t{-2}, cuda::BufferAddress{.buffer = 3, .offset = 4}, 0.5F};
  const auto block = cuda::pack_parameters(
      arguments, [](const auto& a) { return 0x1000 * a.buffer + a.offset; }, &table);
  const std::array<unsigned char, 40> expected{0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0,  //
                                               0x04, 0x30, 0,    0,    0, 0, 0, 0,  //
                                               0,    0,    0,    0x3f, 0, 0, 0, 0};
  CHECK_EQUAL(block.size(), expected.size());
  CHECK(std::memcmp(block.data(), expected.data(), block.size()) == 0);
  CHECK_EQUAL(table.size(), 5U);
  CHECK_EQUAL(table[2].offset, 16U);
  CHECK_EQUAL(table[2].num_bytes, 4U);
  CHECK_EQUAL(table[4].offset, 32U);
}

void each_launch_is_run_once_and_then_captured() {
  CardRig card;
  const auto player = toy::player();
  toy::capture(*player, 2, 4);
  const std::string log = card.log();
  const auto launches = lines_of(log, "cuLaunchKernel");
  CHECK_EQUAL(launches.size(), 4U);
  CHECK_CONTAINS(launches[0], "digest_kernel 2,3,1 128,1,1 65536 now ");
  CHECK_CONTAINS(launches[1], "finish_kernel 1,1,1 64,1,1 0 now ");
  CHECK_CONTAINS(launches[2], "digest_kernel 2,3,1 128,1,1 65536 captured ");
  CHECK_CONTAINS(launches[3], "finish_kernel 1,1,1 64,1,1 0 captured ");
  // One copy in, two kernels, one copy out.
  CHECK_EQUAL(lines_of(log, "cuGraphInstantiateWithFlags")[0], "cuGraphInstantiateWithFlags 4 0");
  CHECK_EQUAL(lines_of(log, "cuFuncSetAttribute")[0], "cuFuncSetAttribute digest_kernel 8 65536");
  CHECK_EQUAL(lines_of(log, "cuFuncSetAttribute").size(), 1U);
  const auto copies = lines_of(log, "cuMemcpyHtoDAsync_v2");
  CHECK_CONTAINS(copies.back(), " " + std::to_string(toy::input_bytes(*player, 2)) + " captured");
  CHECK_EQUAL(lines_of(log, "cuMemAlloc_v2").size(), 1U);
}

void everything_is_released_on_any_thread() {
  CardRig card;
  auto player = toy::player();
  toy::capture(*player, 1, 4);
  CHECK_EQUAL(card.live("executables"), 1);
  CHECK_EQUAL(card.live("graphs"), 0);
  std::thread([&] { player.reset(); }).join();
  CHECK_EQUAL(card.live(), 0);
  const std::string log = card.log();
  CHECK(log.find("cuGraphExecDestroy") < log.find("cuMemFree_v2"));
  CHECK(log.find("cuMemFree_v2") < log.find("cuModuleUnload"));
  CHECK(log.find("cuModuleUnload") < log.find("cuStreamDestroy_v2"));
  CHECK(log.ends_with("cuDevicePrimaryCtxRelease_v2\n"));
}

void a_failure_of_any_call_is_named_and_leaves_nothing() {
  const char* const calls[] = {"cuInit",
                               "cuDeviceGetCount",
                               "cuDeviceGet",
                               "cuDeviceGetName",
                               "cuDevicePrimaryCtxRetain",
                               "cuCtxSetCurrent",
                               "cuStreamCreate",
                               "cuDeviceGetAttribute",
                               "cuModuleLoadData",
                               "cuModuleGetFunction",
                               "cuFuncSetAttribute",
                               "cuMemGetInfo_v2",
                               "cuMemAlloc_v2",
                               "cuMemHostAlloc",
                               "cuMemsetD8Async",
                               "cuStreamSynchronize",
                               "cuMemcpyHtoDAsync_v2",
                               "cuMemcpyDtoHAsync_v2",
                               "cuStreamBeginCapture_v2",
                               "cuStreamEndCapture",
                               "cuGraphInstantiateWithFlags",
                               "cuGraphUpload",
                               "cuLaunchKernel"};
  CardRig card;
  for (const char* call : calls) {
    for (int successes = 0; successes < 2; ++successes) {
      card.refuse(call, successes, 701);
      const std::string message = message_of<std::runtime_error>([&] {
        const auto player = toy::player();
        toy::capture(*player, 1, 4);
        toy::capture(*player, 2, 4);
      });
      const std::string name = std::string(call).substr(0, std::string(call).find("_v2"));
      if (!message.empty()) {
        CHECK_CONTAINS(message, name);
        CHECK_CONTAINS(message, "got CUDA error 701 (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)");
        CHECK(message.find('\n') == std::string::npos);
      } else {
        CHECK_EQUAL(successes, 1);
        card.reset();
      }
      CHECK_EQUAL(card.live(), 0);
    }
  }
}

void a_failing_launch_names_variant_launch_stage_and_kernel() {
  CardRig card;
  const auto player = toy::player();
  for (const int successes : {1, 3}) {  // without capture, and within
    card.refuse("cuLaunchKernel", successes, 701);
    const auto message = message_of<std::runtime_error>([&] { toy::capture(*player, 2, 8); });
    CHECK_EQUAL(message,
                "2 cameras, 8 tokens, launch 1 (steps, finish): cuLaunchKernel: expected success, "
                "got CUDA error 701 (CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES)");
  }
  toy::capture(*player, 2, 8);  // the stream is not left in a capture
}

void another_architecture_is_refused_before_anything_is_loaded() {
  CardRig card;
  card.reset(8, 9);
  CHECK_EQUAL(error_of<EngineUnavailable>(toy::settings()),
              "architecture: expected cubins for compute capability 8.9 of Fake card, got cubins "
              "for sm_90a");
  CHECK(card.log().find("cuModuleLoadData") == std::string::npos);
  CHECK_EQUAL(card.live(), 0);
}

void cubins_run_on_their_own_card_and_some_on_later_ones() {
  CHECK(cuda::runs_on("sm_90a", 9, 0));
  CHECK(!cuda::runs_on("sm_100a", 10, 3));
  CHECK(cuda::runs_on("sm_100f", 10, 3));
  CHECK(cuda::runs_on("sm_80", 8, 9));
  CHECK(!cuda::runs_on("sm_89", 8, 6));
  CHECK(!cuda::runs_on("sm_80", 9, 0));
  CHECK(cuda::runs_on("sm_120a", 12, 0));
  for (const char* wrong : {"", "sm_", "sm_90x", "compute_90", "90"}) {
    CHECK(!cuda::runs_on(wrong, 9, 0));
  }
}

void unusable_cubins_are_refused_with_the_reason() {
  CardRig card;
  cuda::PlayerSettings settings = toy::settings();
  settings.kernels[1].cubin = toy::image("nonsense");
  CHECK_EQUAL(error_of<EngineUnavailable>(settings),
              "kernel finish: expected a cubin for sm_90a, got one that is damaged "
              "(CUDA_ERROR_INVALID_IMAGE)");
  settings.kernels[1].cubin = toy::image("FAKE sm_80 finish_kernel");
  CHECK_EQUAL(error_of<EngineUnavailable>(settings),
              "kernel finish: expected a cubin for sm_90a, got one without code for Fake card "
              "(CUDA_ERROR_NO_BINARY_FOR_GPU)");
  settings.kernels[1].cubin = toy::image("FAKE sm_90 another_kernel");
  CHECK_EQUAL(error_of<std::runtime_error>(settings),
              "kernel finish: cuModuleGetFunction: expected success, got CUDA error 500 "
              "(CUDA_ERROR_NOT_FOUND)");
  CHECK_EQUAL(card.live(), 0);
}

void too_much_shared_memory_is_refused_with_the_cards_limit() {
  CardRig card;
  card.reset(9, 0, 65535);
  CHECK_EQUAL(error_of<EngineUnavailable>(toy::settings()),
              "kernel digest: expected at most 65535 bytes of shared memory on Fake card, got "
              "65536");
  CHECK_EQUAL(card.live(), 0);
}

void too_little_memory_is_refused_with_what_is_needed_and_free() {
  CardRig card;
  constexpr std::size_t kMebibyte = 1U << 20;
  cuda::PlayerSettings settings = toy::settings();
  settings.buffers[toy::kWork].num_bytes = 40 * kMebibyte;
  const std::string text = "memory of Fake card: expected 40 MiB free, got ";
  card.reset(9, 0, 232448, 64 * kMebibyte, 24 * kMebibyte);
  CHECK_EQUAL(error_of<EngineUnavailable>(settings), text + "24 of 64 MiB");
  CHECK(card.log().find("cuMemAlloc") == std::string::npos);
  card.reset(9, 0, 232448, 32 * kMebibyte, 24 * kMebibyte);
  CHECK_EQUAL(error_of<EngineUnavailable>(settings), text + "24 of 32 MiB");
  CHECK_EQUAL(card.live(), 0);
}

void a_plan_that_does_not_fit_its_cubins_is_refused_by_name() {
  CardRig card;
  const auto message = [](auto change) {
    cuda::PlayerSettings settings = toy::settings();
    std::vector<cuda::PlanLaunch> launches = toy::launches(1, 4);
    change(settings, launches);
    return message_of<std::invalid_argument>([&] {
      const auto player = toy::player(settings);
      player->capture("toy", launches, 256);
    });
  };
  using Settings = cuda::PlayerSettings;
  using Launches = std::vector<cuda::PlanLaunch>;
  CHECK_EQUAL(message([](Settings& s, Launches&) { s.kernels[0].parameters[9].offset = 72; }),
              "toy, launch 0 (prefix, digest), parameter 9: expected 4 bytes at 72 as in the "
              "cubin, got 4 bytes at 68");
  CHECK_EQUAL(message([](Settings&, Launches& l) { l[1].arguments.pop_back(); }),
              "toy, launch 1 (steps, finish): expected the 6 parameters of the cubin, got 5");
  CHECK_EQUAL(message([](Settings&, Launches& l) { l[1].arguments[0] = 1; }),
              "toy, launch 1 (steps, finish), parameter 0: expected 8 bytes at 0 as in the cubin, "
              "got 4 bytes at 0");
  CHECK_EQUAL(message([](Settings&, Launches& l) {
                l[1].arguments[0] = cuda::BufferAddress{.buffer = toy::kWork, .offset = 48};
              }),
              "toy, launch 1 (steps, finish): expected an offset below x's 48 bytes, got 48");
  CHECK_CONTAINS(message([](Settings&, Launches& l) {
                   l[1].arguments[0] = cuda::BufferAddress{.buffer = 11};
                 }),
                 "expected one of 11 buffers, got buffer 11");
  CHECK_CONTAINS(message([](Settings&, Launches& l) { l[1].kernel = 2; }),
                 "toy, launch 1: expected one of 2 kernels, got kernel 2");
  CHECK_CONTAINS(message([](Settings& s, Launches&) {
                   s.buffers[toy::kOutput].role = cuda::BufferRole::kWork;
                 }),
                 "buffers: expected inputs and a single output");
  CHECK_CONTAINS(message([](Settings& s, Launches&) { s.buffers[toy::kWork].num_bytes = 0; }),
                 "buffer x: expected at least one byte");
  CHECK_EQUAL(card.live(), 0);
}

void constants_are_uploaded_whole_and_before_a_capture() {
  CardRig card;
  cuda::Player player(toy::settings());
  const std::array<float, 2> values{1, 2};
  const auto upload = [&](const char* name, std::size_t count) {
    return message_of<std::invalid_argument>(
        [&] { player.upload(name, std::as_bytes(std::span(values.data(), count))); });
  };
  CHECK_EQUAL(upload("offset", 2), "constant offset: expected 4 bytes, got 8");
  CHECK_CONTAINS(upload("state", 2), "constant state: expected a constant of the plan");
  CHECK_CONTAINS(upload("nothing", 2), "constant nothing: expected a constant of the plan");
  const auto capture = [&](std::size_t num_input_bytes) {
    return message_of<std::invalid_argument>(
        [&] { player.capture("toy", toy::launches(1, 4), num_input_bytes); });
  };
  CHECK_EQUAL(capture(256),
              "toy, launch 0 (prefix, digest): expected a constant that is uploaded, got offset, "
              "which is not");
  CHECK_EQUAL(upload("offset", 1), "");
  CHECK_CONTAINS(capture(1 << 20), "toy: expected 1 to 2048 bytes of inputs, got 1048576");
  CHECK_EQUAL(capture(256), "");
}

}  // namespace

std::vector<Case> cuda_player_cases() {
  return {
      {"a block is naturally aligned and ends with two scratch addresses",
       a_block_is_naturally_aligned_and_ends_with_two_scratch_addresses},
      {"each launch is run once and then captured", each_launch_is_run_once_and_then_captured},
      {"everything is released on any thread", everything_is_released_on_any_thread},
      {"a failure of any call is named and leaves nothing",
       a_failure_of_any_call_is_named_and_leaves_nothing},
      {"a failing launch names variant, launch, stage and kernel",
       a_failing_launch_names_variant_launch_stage_and_kernel},
      {"another architecture is refused before anything is loaded",
       another_architecture_is_refused_before_anything_is_loaded},
      {"cubins run on their own card and some on later ones",
       cubins_run_on_their_own_card_and_some_on_later_ones},
      {"unusable cubins are refused with the reason", unusable_cubins_are_refused_with_the_reason},
      {"too much shared memory is refused with the card's limit",
       too_much_shared_memory_is_refused_with_the_cards_limit},
      {"too little memory is refused with what is needed and free",
       too_little_memory_is_refused_with_what_is_needed_and_free},
      {"a plan that does not fit its cubins is refused by name",
       a_plan_that_does_not_fit_its_cubins_is_refused_by_name},
      {"constants are uploaded whole and before a capture",
       constants_are_uploaded_whole_and_before_a_capture},
  };
}

}  // namespace flux::test
