// A policy of a plan's graphs, on the fake card: which graph, with which inputs, and what becomes
// of a late answer.
#include <algorithm>
#include <atomic>
#include <thread>
#include <utility>

#include "allocations.hpp"
#include "card_rig.hpp"
#include "flux/chunk_inference.hpp"

namespace flux::test {
namespace {

struct PolicyRig : CardRig {
  std::shared_ptr<CapturedPolicy> policy = toy::policy(toy::player());
  toy::Call call;

  std::string refusal(const Continuation* continuation = nullptr) {
    return message_of<std::invalid_argument>([&] { call.infer(*policy, continuation); });
  }
};

// What the toy's kernels say of the inputs.
float expected(int cameras, int places, float images, float tokens) {
  return 0.25F + 1e4F * static_cast<float>(cameras) + 1e3F * static_cast<float>(places) + images +
         tokens + 2.0F;
}

void the_smallest_graph_gets_only_what_is_there() {
  PolicyRig rig;
  rig.call.infer(*rig.policy);
  CHECK_EQUAL(rig.call.actions[0], expected(3, 4, 10 + 2 * 20 + 3 * 30, 18));
  CHECK_EQUAL(rig.call.actions[11], expected(3, 4, 10 + 2 * 20 + 3 * 30, 18) + 11);
  rig.call.image_masks = {true, false, true};
  rig.call.infer(*rig.policy);
  CHECK_EQUAL(rig.call.actions[0], expected(2, 4, 10 + 3 * 30, 18));
  rig.call.image_masks = {false, false, true};
  rig.call.token_masks = {true, true, true, true, true};
  rig.call.infer(*rig.policy);
  CHECK_EQUAL(rig.call.actions[0], expected(1, 8, 3 * 30, 18 + 2 * 999));
  rig.call.token_masks = {};
  rig.call.infer(*rig.policy);
  CHECK_EQUAL(rig.call.actions[0], expected(1, 4, 3 * 30, 0));
  CHECK_EQUAL(rig.policy->histograms().inference.count(), 4U);
  CHECK_EQUAL(rig.policy->histograms().copy_in.count(), 4U);
}

void nothing_is_allocated_in_an_inference() {
  PolicyRig rig;
  const ContinuationSettings settings{.delays = {0, 2}};
  const Continuation continuation{
      .settings = &settings, .previous = rig.call.noise, .prefix_len = 2};
  rig.record(false);
  rig.call.infer(*rig.policy);
  const std::size_t before = num_allocations();
  rig.call.infer(*rig.policy);
  rig.call.infer(*rig.policy, &continuation);
  CHECK_EQUAL(num_allocations(), before);
}

void an_inference_is_one_launch_and_one_wait() {
  PolicyRig rig;
  const std::size_t before = rig.log().size();
  rig.call.infer(*rig.policy);
  CHECK_EQUAL(rig.log().substr(before), "cuGraphLaunch 4\ncuStreamSynchronize\n");
}

void known_rows_begin_the_chunk() {
  PolicyRig rig;
  const ContinuationSettings settings{.delays = {0, 2, 3}};
  std::array<float, 9> previous{-1, -2, -3, -4, -5, -6, -7, -8, -9};
  Continuation continuation{.settings = &settings, .previous = previous, .prefix_len = 2};
  CHECK(rig.policy->can_continue());
  CHECK(!rig.policy->can_guide());
  rig.call.infer(*rig.policy, &continuation);
  const float rest = expected(3, 4, 10 + 2 * 20 + 3 * 30, 18);
  CHECK_EQUAL(rig.call.actions[0], -1.0F);
  CHECK_EQUAL(rig.call.actions[5], -6.0F);
  CHECK_EQUAL(rig.call.actions[6], rest + 6);
  continuation.prefix_len = 0;
  rig.call.infer(*rig.policy, &continuation);
  CHECK_EQUAL(rig.call.actions[0], rest);
  rig.call.infer(*rig.policy);
  CHECK_EQUAL(rig.call.actions[0], rest);
  continuation.prefix_len = 1;
  CHECK_CONTAINS(rig.refusal(&continuation), "trained with (0, 2, 3), got 1");
}

void guidance_is_refused_by_name() {
  PolicyRig rig;
  const ContinuationSettings settings{.method = ContinuationMethod::kGuidance};
  const Continuation continuation{
      .settings = &settings, .previous = rig.call.noise, .prefix_len = 1};
  CHECK_EQUAL(rig.refusal(&continuation),
              "continuation: expected method prefix, because the Euler steps are captured as a "
              "single launch, got method guidance. Use another engine, or a mode other than rtc");
}

void inputs_without_a_graph_are_refused_by_name() {
  PolicyRig rig;
  rig.call.image_masks = {};
  CHECK_EQUAL(rig.refusal(), "image_masks: expected at least one camera that is present, got none");
  rig.call = toy::Call();
  rig.call.token_masks = {true, false, true};
  CHECK_EQUAL(rig.refusal(),
              "lang_masks: expected the padding behind the prompt, got padding before token 2");
  rig.call = toy::Call();
  for (const std::int64_t word : {std::int64_t{-1}, toy::kVocabulary, std::int64_t{1} << 32}) {
    rig.call.tokens[1] = word;
    CHECK_EQUAL(rig.refusal(), "lang_tokens: expected 0 to 999, got " + std::to_string(word));
  }
  rig.call = toy::Call();
  CHECK_EQUAL(rig.refusal(), "");
}

void a_missing_variant_is_reported_with_the_numbers_of_cameras_that_exist() {
  CardRig card;
  const auto player = toy::player();
  std::vector<PlanVariant> variants{{3, 4, toy::capture(*player, 3, 4)},
                                    {1, 8, toy::capture(*player, 1, 8)},
                                    {1, 4, toy::capture(*player, 1, 4)}};
  CompactInputs inputs(toy::infos(), toy::block(*player), variants, toy::kVocabulary, toy::kDim);
  toy::Call call;
  const auto refusal = [&] {
    const auto views = call.views();
    return message_of<std::invalid_argument>(
        [&] { static_cast<void>(inputs.write(views, call.noise, nullptr)); });
  };
  CHECK_EQUAL(refusal(), "");
  call.image_masks = {true, true, false};
  CHECK_EQUAL(refusal(), "image_masks: expected 1, 3 cameras with 3 tokens, got 2");
  call.image_masks = {true, true, true};
  call.token_masks.fill(true);
  CHECK_EQUAL(refusal(), "image_masks: expected 1 cameras with 8 tokens, got 3");
}

void memory_that_does_not_fit_the_inputs_is_refused_by_name() {
  CardRig card;
  const auto player = toy::player();
  const std::vector<PlanVariant> variants{{3, 8, toy::capture(*player, 3, 8)}};
  const auto message = [&](auto change) {
    InputBlock block = toy::block(*player);
    std::vector<TensorInfo> infos = toy::infos();
    std::vector<PlanVariant> with = variants;
    change(block, infos, with);
    return message_of<std::invalid_argument>(
        [&] { CompactInputs inputs(infos, block, with, toy::kVocabulary, toy::kDim); });
  };
  using Infos = std::vector<TensorInfo>;
  using Variants = std::vector<PlanVariant>;
  CHECK_EQUAL(message([](InputBlock&, Infos&, Variants&) {}), "");
  CHECK_EQUAL(message([](InputBlock& b, Infos&, Variants&) { b.images = b.images.first(24); }),
              "input images of the plan: expected 36 bytes, got 24");
  CHECK_EQUAL(message([](InputBlock&, Infos& i, Variants&) { i.pop_back(); }),
              "inputs: expected images, image_masks, lang_tokens, lang_masks, state, got images, "
              "image_masks, lang_tokens, lang_masks");
  CHECK_CONTAINS(message([](InputBlock& b, Infos&, Variants&) { b.known = b.known.first(4); }),
                 "input known of the plan: expected 48 bytes, got 4");
  CHECK_CONTAINS(message([](InputBlock&, Infos& i, Variants&) { i[2].dtype = DType::kInt32; }),
                 "lang_tokens: expected int64 with 2 dimensions");
  CHECK_CONTAINS(message([](InputBlock&, Infos& i, Variants&) { i[0].shape[1] = 0; }),
                 "images: expected uint8 with 5 dimensions of at least 1, the first 1, got uint8 "
                 "(1, 0, 2, 2, 3)");
  CHECK_CONTAINS(message([](InputBlock&, Infos& i, Variants&) { i[0].name = "pixels"; }),
                 "images: expected an input, got no such input");
  CHECK_CONTAINS(message([](InputBlock&, Infos&, Variants& v) { v.clear(); }), "variants: ");
  CHECK_CONTAINS(message([](InputBlock&, Infos&, Variants& v) { v[0].exec = nullptr; }),
                 "variants: ");
}

// The network of a pi0.5 reads it in the prompt; its bundle has it among the inputs all the same.
void a_state_that_no_plan_reads_is_not_copied() {
  CardRig card;
  const auto player = toy::player();
  const std::vector<PlanVariant> variants{{3, 8, toy::capture(*player, 3, 8)}};
  InputBlock block = toy::block(*player);
  const std::vector<std::byte> before(block.state.begin(), block.state.end());
  const std::span<std::byte> state = std::exchange(block.state, {});
  toy::Call call;
  CompactInputs inputs(toy::infos(), block, variants, toy::kVocabulary, toy::kDim);
  CHECK(inputs.write(call.views(), call.noise, nullptr) == variants[0].exec);
  CHECK(std::ranges::equal(state, before));

  std::vector<TensorInfo> infos = toy::infos();
  infos.back().name = "other";
  const auto message = message_of<std::invalid_argument>(
      [&] { CompactInputs with(infos, block, variants, toy::kVocabulary, toy::kDim); });
  CHECK_EQUAL(
      message,
      "inputs: expected images, image_masks, lang_tokens, lang_masks and perhaps state, got "
      "images, image_masks, lang_tokens, lang_masks, other");
  infos.pop_back();
  CompactInputs without(infos, block, variants, toy::kVocabulary, toy::kDim);
}

void a_fault_of_the_card_names_call_and_code() {
  PolicyRig rig;
  for (const char* name : {"cuCtxSetCurrent", "cuGraphLaunch", "cuStreamSynchronize"}) {
    rig.refuse(name, 0, 700);
    const auto message = message_of<std::runtime_error>([&] { rig.call.infer(*rig.policy); });
    CHECK_EQUAL(message, std::string(name) +
                             ": expected success, got CUDA error 700 "
                             "(CUDA_ERROR_ILLEGAL_ADDRESS)");
  }
}

void the_policy_keeps_the_card_and_gives_it_back() {
  PolicyRig rig;
  CHECK_EQUAL(rig.live("executables"), 6);
  rig.policy.reset();
  CHECK_EQUAL(rig.live(), 0);
}

std::atomic<bool> is_running{false};
std::atomic<bool> may_end{true};

void run_slowly(const unsigned* grid, const unsigned char* parameters) {
  is_running = true;
  is_running.notify_all();
  may_end.wait(false);
  toy::run_finish(grid, parameters);
}

// A hold during the inference: the launch cannot be cancelled, but its answer is not wanted.
void a_late_answer_is_dropped() {
  PolicyRig rig;
  rig.kernel("finish_kernel", run_slowly);
  rig.policy = toy::policy(toy::player());
  const auto mailbox = std::make_shared<ChunkMailbox>(toy::kDim, toy::kHorizon);
  const std::array<float, toy::kDim> scale{1, 1, 1};
  const std::array<float, toy::kDim> offset{};
  const ActionDecoder decoder(scale, offset, std::array<std::uint8_t, toy::kDim>{});
  ChunkInference inference(rig.policy, decoder, mailbox, 2);
  const std::array<float, toy::kDim> state{};
  mailbox->post(0, 0);
  const auto request = mailbox->take();
  is_running = false;
  may_end = false;
  bool is_wanted = true;
  std::thread thread(
      [&] { is_wanted = inference.infer(*request, rig.call.views(), state, rig.call.noise, 0); });
  is_running.wait(false);
  CHECK(!mailbox->discard());
  may_end = true;
  may_end.notify_all();
  thread.join();
  CHECK(!is_wanted);
  CHECK(mailbox->status() == ChunkMailbox::Status::kChunk);
  CHECK(!mailbox->is_wanted(mailbox->chunk().request));  // what the control thread asks
  mailbox->release();
  mailbox->post(1, 0);
  const auto next = mailbox->take();
  CHECK(inference.infer(*next, rig.call.views(), state, rig.call.noise, 0));
}

void a_cancelled_inference_is_not_launched() {
  PolicyRig rig;
  const std::size_t before = rig.log().size();
  const std::atomic<bool> cancel = true;
  const auto message =
      message_of<InferenceCancelled>([&] { rig.call.infer(*rig.policy, nullptr, &cancel); });
  CHECK_CONTAINS(message, "cancelled");
  CHECK_EQUAL(rig.log().size(), before);
}

}  // namespace

std::vector<Case> planned_policy_cases() {
  return {
      {"the smallest graph gets only what is there", the_smallest_graph_gets_only_what_is_there},
      {"nothing is allocated in an inference", nothing_is_allocated_in_an_inference},
      {"an inference is one launch and one wait", an_inference_is_one_launch_and_one_wait},
      {"known rows begin the chunk", known_rows_begin_the_chunk},
      {"guidance is refused by name", guidance_is_refused_by_name},
      {"inputs without a graph are refused by name", inputs_without_a_graph_are_refused_by_name},
      {"a missing variant is reported with the numbers of cameras that exist",
       a_missing_variant_is_reported_with_the_numbers_of_cameras_that_exist},
      {"memory that does not fit the inputs is refused by name",
       memory_that_does_not_fit_the_inputs_is_refused_by_name},
      {"a state that no plan reads is not copied", a_state_that_no_plan_reads_is_not_copied},
      {"a fault of the card names call and code", a_fault_of_the_card_names_call_and_code},
      {"the policy keeps the card and gives it back", the_policy_keeps_the_card_and_gives_it_back},
      {"a late answer is dropped", a_late_answer_is_dropped},
      {"a cancelled inference is not launched", a_cancelled_inference_is_not_launched},
  };
}

}  // namespace flux::test
