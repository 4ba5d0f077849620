// Chunks that continue the running one, with a policy that is small enough to calculate by hand.
#include "flux/continuation.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "allocations.hpp"
#include "check.hpp"
#include "flux/action_decoder.hpp"
#include "flux/continued_flow.hpp"
#include "flux/robot_policy.hpp"
#include "toy_policy.hpp"

namespace flux::test {
namespace {

using Error = std::invalid_argument;

ContinuationSettings guidance(double max_weight = 5.0) {
  return {.method = ContinuationMethod::kGuidance, .max_guidance_weight = max_weight};
}

ContinuationSettings trained(std::vector<int> delays) { return {.delays = std::move(delays)}; }

void a_delay_is_rounded_up_to_the_next_trained_one() {
  const ContinuationSettings settings = trained({0, 4, 8, 12});
  CHECK_EQUAL(usable_delay(settings, 0, 16, 32), 0);
  CHECK_EQUAL(usable_delay(settings, 1, 16, 32), 4);
  CHECK_EQUAL(usable_delay(settings, 8, 16, 32), 8);
  CHECK_EQUAL(usable_delay(settings, 13, 16, 32), -1);
  CHECK_EQUAL(usable_delay(settings, 9, 10, 32), -1);  // 12 > s
  CHECK_EQUAL(usable_delay(settings, 9, 24, 32), -1);  // s > H - 12
  CHECK_EQUAL(largest_usable_delay(settings, 16, 32), 12);
  CHECK_EQUAL(largest_usable_delay(settings, 10, 32), 8);
  CHECK_EQUAL(largest_usable_delay(settings, 29, 32), 0);
  CHECK_EQUAL(largest_usable_delay(trained({4, 8}), 31, 32), -1);
}

void guidance_takes_any_delay_and_a_fixed_one_is_the_only_one() {
  CHECK_EQUAL(usable_delay(guidance(), 13, 16, 32), 13);
  CHECK_EQUAL(usable_delay(guidance(), 17, 16, 32), -1);
  CHECK_EQUAL(largest_usable_delay(guidance(), 20, 32), 12);
  ContinuationSettings fixed = trained({0, 4, 8});
  fixed.prefix_len = 4;
  CHECK_EQUAL(usable_delay(fixed, 0, 16, 32), 4);
  CHECK_EQUAL(usable_delay(fixed, 5, 16, 32), -1);
  CHECK_EQUAL(largest_usable_delay(fixed, 16, 32), 4);
  CHECK_EQUAL(largest_usable_delay(fixed, 3, 32), -1);
}

void settings_out_of_range_are_named() {
  const auto message = [](const ContinuationSettings& settings) {
    return message_of<Error>([&] { check(settings, 6); });
  };
  CHECK_EQUAL(message(trained({0, 3})), "");
  CHECK_CONTAINS(message({.prefix_len = 7}), "prefix_len: expected 0 to action_horizon 6");
  CHECK_CONTAINS(message({.prefix_len = 3}), "prefix_len: expected a delay that the policy was");
  CHECK_CONTAINS(message({.prefix_len = 0, .decay_end = 7}), "decay_end: expected 0 to");
  ContinuationSettings settings = guidance();
  settings.prefix_len = 3;
  settings.decay_end = 2;
  CHECK_CONTAINS(message(settings), "decay_end: expected at least prefix_len 3, got 2");
  CHECK_CONTAINS(message(guidance(0.0)), "max_guidance_weight: expected a finite number above 0");
  CHECK_CONTAINS(message(guidance(std::nan(""))), "max_guidance_weight");
  CHECK_CONTAINS(message(trained({})), "delays: expected at least one");
  CHECK_CONTAINS(message(trained({4, 0})), "delays: expected ascending numbers");
  CHECK_CONTAINS(message(trained({0, 7})), "got 7 after 0");
}

struct Run {
  explicit Run(Hooks hooks = {}) : policy(toy_policy(std::move(hooks))) {
    for (std::size_t i = 0; i < previous.size(); ++i) previous[i] = 0.1F * static_cast<float>(i);
    for (std::size_t i = 0; i < inputs.noise.size(); ++i) {
      inputs.noise[i] = 1.0F - 0.05F * static_cast<float>(i);
    }
  }

  std::vector<float> infer(const ContinuationSettings& settings, int prefix_len, int rows = 6) {
    std::vector<float> actions(policy->num_action_values());
    const Continuation continuation{
        .settings = &settings,
        .previous = std::span(previous).first(static_cast<std::size_t>(rows * kActionDim)),
        .prefix_len = prefix_len};
    policy->infer(inputs.views(), inputs.noise, actions, nullptr, nullptr, &continuation);
    return actions;
  }

  std::vector<float> free() {
    std::vector<float> actions(policy->num_action_values());
    policy->infer(inputs.views(), inputs.noise, actions);
    return actions;
  }

  std::shared_ptr<FlowPolicy> policy;
  ToyInputs inputs;
  std::vector<float> previous = std::vector<float>(kActionHorizon * kActionDim);
};

void an_empty_prefix_changes_no_bit() {
  Run run;
  const std::vector<float> expected = run.free();
  CHECK(run.infer(trained({0, 2}), 0) == expected);
  CHECK(run.infer(guidance(), 0) == expected);
  CHECK_EQUAL(run.policy->histograms().step.count(), 12U);
}

void a_known_prefix_stays_and_its_time_is_zero() {
  std::vector<std::vector<float>> times;
  std::vector<std::vector<float>> rows;
  Hooks hooks;
  hooks.on_step = [&](const Memory& memory) {
    const float* t = memory.find("t")->second;
    const float* x = memory.find("x_t")->second;
    times.emplace_back(t, t + kActionHorizon);
    rows.emplace_back(x, x + 2 * kActionDim);
  };
  Run run(hooks);
  const std::vector<float> free = run.free();
  times.clear();
  rows.clear();
  const std::vector<float> actions = run.infer(trained({0, 2}), 2);
  const std::vector<float> prefix(run.previous.begin(), run.previous.begin() + 2 * kActionDim);
  CHECK_EQUAL(times.size(), 4U);
  for (std::size_t step = 0; step < times.size(); ++step) {
    CHECK(rows[step] == prefix);
    const float t = 1.0F - 0.25F * static_cast<float>(step);
    CHECK(times[step] == (std::vector{0.0F, 0.0F, t, t, t, t}));
  }
  CHECK(std::equal(prefix.begin(), prefix.end(), actions.begin()));
  // The toy's rows do not see each other, so that the others are those of no prefix.
  CHECK(std::equal(free.begin() + 4, free.end(), actions.begin() + 4));
}

// The same arithmetic in double, row by row.
double guided(double noise, double key, double known, double weight, double max_weight) {
  double x = noise;
  for (int step = 0; step < kNumInferenceSteps; ++step) {
    const double t = 1.0 - 0.25 * step;
    const double velocity = x - key;
    const double pull = (known - (x - t * velocity)) * weight;
    const double tau = 1.0 - t;
    const double strength =
        tau == 0.0 ? max_weight : std::min(t / tau * (tau * tau + t * t) / (t * t), max_weight);
    x = x - (velocity - strength * pull) / kNumInferenceSteps;
  }
  return x;
}

void guidance_pulls_towards_the_known_rows_by_their_weights() {
  Run run;
  for (const auto schedule : {GuidanceSchedule::kExponential, GuidanceSchedule::kLinear,
                              GuidanceSchedule::kOnes, GuidanceSchedule::kZeros}) {
    ContinuationSettings settings = guidance(2.0);
    settings.schedule = schedule;
    const std::vector<float> actions = run.infer(settings, 2, 5);
    std::vector<float> weights(kActionHorizon);
    prefix_weights(2, 4, schedule, weights);  // decay_end is twice the delay
    for (std::size_t i = 0; i < actions.size(); ++i) {
      const double key = 2.0 * static_cast<double>(run.inputs.observation[i % kActionDim]);
      const double expected =
          guided(static_cast<double>(run.inputs.noise[i]), key,
                 static_cast<double>(run.previous[i]), static_cast<double>(weights[i / 2]), 2.0);
      CHECK_NEAR(static_cast<double>(actions[i]), expected, 1e-5);
    }
  }
}

void weights_fall_from_one_to_zero() {
  const auto weights = [](int prefix_len, int decay_end, GuidanceSchedule schedule) {
    std::vector<float> values(8);
    prefix_weights(prefix_len, decay_end, schedule, values);
    return values;
  };
  CHECK(weights(2, 5, GuidanceSchedule::kLinear) ==
        (std::vector{1.0F, 1.0F, 0.75F, 0.5F, 0.25F, 0.0F, 0.0F, 0.0F}));
  CHECK(weights(2, 5, GuidanceSchedule::kOnes) ==
        (std::vector{1.0F, 1.0F, 1.0F, 1.0F, 1.0F, 0.0F, 0.0F, 0.0F}));
  CHECK(weights(2, 5, GuidanceSchedule::kZeros) ==
        (std::vector{1.0F, 1.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F}));
  const float c = 0.5F;
  CHECK_NEAR(weights(2, 5, GuidanceSchedule::kExponential)[3],
             c * (std::exp(c) - 1.0F) / (std::exp(1.0F) - 1.0F), 1e-6);
  CHECK_NEAR(guidance_weight(1.0, 5.0), 5.0, 0.0);
  CHECK_NEAR(guidance_weight(0.5, 5.0), 2.0, 1e-12);
  CHECK_NEAR(guidance_weight(0.01, 5.0), 5.0, 0.0);
}

void a_continuation_that_does_not_fit_is_refused() {
  Run run;
  const auto message = [&](const ContinuationSettings& settings, int prefix_len, int rows) {
    return message_of<Error>([&] { run.infer(settings, prefix_len, rows); });
  };
  CHECK_CONTAINS(message(trained({0, 2, 4}), 3, 6), "trained with (0, 2, 4), got 3");
  CHECK_CONTAINS(message(trained({0, 2, 4}), 4, 3),
                 "prefix_len: expected at most 3 (the rows left");
  run.previous.resize(7 * kActionDim);
  CHECK_CONTAINS(message(guidance(), 3, 7), "previous: expected at most 6 rows of 2, got 14");
}

void continuing_allocates_nothing() {
  Run run;
  for (const ContinuationSettings& settings : {trained({0, 2}), guidance()}) {
    const Continuation continuation{
        .settings = &settings, .previous = run.previous, .prefix_len = 2};
    const std::vector<TensorView> views = run.inputs.views();
    std::vector<float> actions(run.policy->num_action_values());
    const std::size_t before = num_allocations();
    run.policy->infer(views, run.inputs.noise, actions, nullptr, nullptr, &continuation);
    CHECK_EQUAL(num_allocations(), before);
  }
}

void a_device_gets_what_the_host_writes_before_every_step() {
  const auto device = std::make_shared<FakeDevice>();
  const auto transfers = std::make_shared<FakeDeviceEngine::Transfers>();
  const auto on_device = [&](std::unique_ptr<FakeEngine> graph) {
    return std::make_unique<FakeDeviceEngine>(device, std::move(graph), transfers);
  };
  FlowPolicy policy(on_device(toy_prefix()), on_device(toy_denoise()), kNumInferenceSteps);
  Run run;
  for (const ContinuationSettings& settings : {trained({0, 2}), guidance()}) {
    *transfers = {};
    std::vector<float> actions(policy.num_action_values());
    const Continuation continuation{
        .settings = &settings, .previous = run.previous, .prefix_len = 2};
    policy.infer(run.inputs.views(), run.inputs.noise, actions, nullptr, nullptr, &continuation);
    CHECK(actions == run.infer(settings, 2));
    // The observation; x_t and t of each step there, x_next and t_next back.
    CHECK_EQUAL(transfers->to_device, 1 + 2 * kNumInferenceSteps);
    CHECK_EQUAL(transfers->to_host, 2 * kNumInferenceSteps);
  }
}

void decoding_scales_shifts_and_adds_the_state_where_relative() {
  const std::vector scale{2.0F, 0.5F};
  const std::vector offset{1.0F, -1.0F};
  const std::vector<std::uint8_t> mask{1, 0};
  const ActionDecoder decoder(scale, offset, mask);
  const std::vector normalised{1.0F, 2.0F, 9.0F, -1.0F, 0.0F, 9.0F};  // (2, 3), one column padding
  const std::vector state{10.0F, 20.0F};
  std::vector<float> actions(4);
  decoder.decode(normalised, 3, state, actions);
  CHECK(actions == (std::vector{13.0F, 0.0F, 9.0F, -1.0F}));
  CHECK_CONTAINS(message_of<Error>([&] { ActionDecoder(scale, std::vector{1.0F}, mask); }),
                 "2, 1 and 2");
  CHECK_CONTAINS(
      message_of<Error>([&] { ActionDecoder(std::vector{1.0F, std::nanf("")}, offset, mask); }),
      "scale[1]");
}

void a_binary_action_is_0_or_1() {
  const std::vector scale{2.0F, 1.0F};
  const std::vector offset{1.0F, 0.0F};
  const std::vector<std::uint8_t> none{0, 0};
  const std::vector<std::uint8_t> second{0, 1};
  const ActionDecoder decoder(scale, offset, none, second);
  CHECK(std::ranges::equal(decoder.binary_mask(), second));
  CHECK(std::ranges::equal(ActionDecoder(scale, offset, none).binary_mask(), none));
  const std::vector normalised{1.0F, 0.5F, 0.0F, 0.51F, 0.0F, -7.0F, 0.0F, 7.0F};
  const std::vector state{10.0F, 20.0F};
  std::vector<float> actions(8);
  decoder.decode(normalised, 2, state, actions);
  CHECK(actions == (std::vector{3.0F, 0.0F, 1.0F, 1.0F, 1.0F, 0.0F, 1.0F, 1.0F}));
  std::vector<float> again(8);
  decoder.encode(actions, 2, state, again);
  CHECK(again == (std::vector{1.0F, 0.0F, 0.0F, 1.0F, 0.0F, 0.0F, 0.0F, 1.0F}));
  std::vector<float> lost(2);
  decoder.decode(std::vector{0.0F, std::nanf("")}, 2, state, lost);
  CHECK(std::isnan(lost[1]));
  CHECK_CONTAINS(message_of<Error>([&] { ActionDecoder(scale, offset, second, second); }),
                 "relative_mask[1]");
  CHECK_CONTAINS(
      message_of<Error>([&] { ActionDecoder(scale, offset, none, std::vector<std::uint8_t>{1}); }),
      "binary_mask");
}

void encoding_is_relative_to_the_new_state_and_padding_is_zero() {
  const std::vector scale{2.0F, 0.0F};
  const std::vector offset{1.0F, -1.0F};
  const std::vector<std::uint8_t> mask{1, 0};
  const ActionDecoder decoder(scale, offset, mask);
  const std::vector actions{13.0F, 7.0F, 9.0F, -1.0F};
  std::vector normalised(6, 9.0F);
  decoder.encode(actions, 3, std::vector{10.0F, 20.0F}, normalised);
  CHECK(normalised == (std::vector{1.0F, 0.0F, 0.0F, -1.0F, 0.0F, 0.0F}));
  decoder.encode(actions, 3, std::vector{8.0F, 20.0F}, normalised);
  CHECK(normalised == (std::vector{2.0F, 0.0F, 0.0F, 0.0F, 0.0F, 0.0F}));
}

void a_robot_policy_continues_rows_in_robot_units() {
  const std::vector scale{2.0F};  // the robot has one joint, the network two dimensions
  const std::vector offset{1.0F};
  RobotPolicy policy(toy_policy(), ActionDecoder(scale, offset, std::vector<std::uint8_t>{1}),
                     trained({0, 2}));
  const ToyInputs inputs;
  const std::vector state{5.0F};
  const std::vector known{6.5F, 7.5F, 8.5F};
  std::vector<float> actions(kActionHorizon);
  policy.infer(inputs.views(), state, inputs.noise, {known, 2}, actions);
  CHECK_NEAR(actions[0], 6.5F, 1e-6);
  CHECK_NEAR(actions[1], 7.5F, 1e-6);
  CHECK_NEAR(actions[2], 2.0F * toy_action(1.0F, 0.25F) + 6.0F, 1e-6);
  CHECK_CONTAINS(message_of<Error>([&] {
                   RobotPolicy(toy_policy(),
                               ActionDecoder(scale, offset, std::vector<std::uint8_t>{1}),
                               trained({7}));
                 }),
                 "delays");
}

}  // namespace

std::vector<Case> continuation_cases() {
  return {
      {"a delay is rounded up to the next trained one",
       a_delay_is_rounded_up_to_the_next_trained_one},
      {"guidance takes any delay and a fixed one is the only one",
       guidance_takes_any_delay_and_a_fixed_one_is_the_only_one},
      {"settings out of range are named", settings_out_of_range_are_named},
      {"an empty prefix changes no bit", an_empty_prefix_changes_no_bit},
      {"a known prefix stays and its time is zero", a_known_prefix_stays_and_its_time_is_zero},
      {"guidance pulls towards the known rows by their weights",
       guidance_pulls_towards_the_known_rows_by_their_weights},
      {"weights fall from one to zero", weights_fall_from_one_to_zero},
      {"a continuation that does not fit is refused", a_continuation_that_does_not_fit_is_refused},
      {"continuing allocates nothing", continuing_allocates_nothing},
      {"a device gets what the host writes before every step",
       a_device_gets_what_the_host_writes_before_every_step},
      {"decoding scales, shifts and adds the state where relative",
       decoding_scales_shifts_and_adds_the_state_where_relative},
      {"a binary action is 0 or 1", a_binary_action_is_0_or_1},
      {"encoding is relative to the new state and padding is zero",
       encoding_is_relative_to_the_new_state_and_padding_is_zero},
      {"a robot policy continues rows in robot units",
       a_robot_policy_continues_rows_in_robot_units},
  };
}

}  // namespace flux::test
