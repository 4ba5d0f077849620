// The control thread itself, in real time, with a robot inside the process.
#include "flux/realtime_loop.hpp"

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "check.hpp"
#include "flux/clock.hpp"
#include "flux/loopback_link.hpp"
#include "flux/stop_signals.hpp"
#include "toy_policy.hpp"

namespace flux::test {
namespace {

struct LoopUnderTest {
  explicit LoopUnderTest(std::shared_ptr<Policy> policy = nullptr, RealtimeSettings settings = {},
                         bool watches_signals = false)
      : link(std::make_shared<LoopbackLink>(kActionDim, std::vector<float>(kActionDim, 0.25F), 1)) {
    if (settings.control_hz == 0.0) settings.control_hz = 100.0;
    settings.execution_horizon = 3;
    const std::vector<double> low(kActionDim, -1.0);
    const std::vector<double> high(kActionDim, 1.0);
    const std::vector<float> ones(kActionDim, 1.0F);
    const std::vector<float> zeros(kActionDim, 0.0F);
    const std::vector<std::uint8_t> absolute(kActionDim, 0);
    loop = std::make_unique<RealtimeLoop>(settings, std::move(policy),
                                          ActionDecoder(ones, zeros, absolute),
                                          SafetyLimits(low, high, high), link, watches_signals);
  }

  std::shared_ptr<LoopbackLink> link;
  std::unique_ptr<RealtimeLoop> loop;
};

// Answers requests on a thread of its own, as the Python side does.
class InferenceThread {
 public:
  explicit InferenceThread(RealtimeLoop& loop) : thread_([this, &loop] { serve(loop); }) {}
  InferenceThread(const InferenceThread&) = delete;
  InferenceThread& operator=(const InferenceThread&) = delete;
  ~InferenceThread() {
    is_ending_ = true;
    thread_.join();
  }

 private:
  void serve(RealtimeLoop& loop) {
    const std::shared_ptr<ChunkInference> inference = loop.inference();
    const MonotonicClock clock;
    ToyInputs inputs;
    const std::vector<float> state(kActionDim);
    while (!is_ending_) {
      const auto request = loop.wait_for_request(0.01);
      if (!request) continue;
      if (inference->policy() == nullptr) {
        inference->submit(*request, std::vector<float>(6 * kActionDim, 0.25F), clock.now_ns());
      } else {
        inference->infer(*request, inputs.views(), state, inputs.noise, clock.now_ns());
      }
    }
  }

  std::atomic<bool> is_ending_{false};
  std::thread thread_;
};

void run_for(std::chrono::milliseconds time) { std::this_thread::sleep_for(time); }

void a_session_runs_and_stops() {
  LoopUnderTest test(toy_policy());
  const InferenceThread thread(*test.loop);
  test.loop->start(1);
  CHECK(!test.loop->wait_until_ended(0.3));
  test.loop->stop(StopCategory::kStopKeepPower, "enough");
  CHECK(test.loop->wait_until_ended(2.0));
  CHECK(test.link->phase() == LinkPhase::kStopped);
  CHECK_CONTAINS(test.loop->reason(), "operator_stop: the operator asked for a stop; enough");
  CHECK(test.loop->core().counts().chunks.get() > 2U);
  CHECK_EQUAL(test.link->num_commands(), test.loop->core().counts().ticks.get());
  test.loop->start(2);
  run_for(std::chrono::milliseconds(50));
  CHECK_EQUAL(test.loop->reason(), "");
  test.loop->finish();
  CHECK(test.loop->wait_until_ended(2.0));
  CHECK(test.link->phase() == LinkPhase::kIdle);
  test.loop->close();
  CHECK(test.link->phase() == LinkPhase::kClosed);
}

void closing_a_running_loop_stops_the_robot() {
  LoopUnderTest test;
  const InferenceThread thread(*test.loop);
  test.loop->start(1);
  run_for(std::chrono::milliseconds(50));
  test.loop->close();
  CHECK(test.loop->status().phase == LoopPhase::kStopped);
  CHECK(test.link->phase() == LinkPhase::kClosed);
  CHECK_CONTAINS(message_of<std::logic_error>([&] { test.loop->start(2); }), "closed");
}

void a_start_that_is_refused_says_why() {
  LoopUnderTest test;
  test.link->set_state(std::vector<float>{0.0F, 3.6F});
  const std::string message = message_of<std::invalid_argument>([&] { test.loop->start(1, true); });
  CHECK_CONTAINS(message, "state[1]: expected -1 to 1 (start_tolerance 0.05), got 3.6");
  CHECK_CONTAINS(message, "(start_pose)");
  CHECK_CONTAINS(message_of<std::invalid_argument>([&] { test.loop->start(0); }), "session");
  test.link->set_state(std::vector<float>{0.0F, 0.0F});
  test.loop->start(1);
  CHECK_CONTAINS(message_of<std::logic_error>([&] { test.loop->start(2); }), "a running one");
}

// The thread is inside Policy::infer, and stays there until the test is over.
void stopping_and_destruction_do_not_wait_for_an_inference() {
  std::atomic<bool> is_running = false;
  std::atomic<bool> may_go = false;
  Hooks hooks;
  hooks.on_prefix = [&] {
    is_running = true;
    is_running.notify_all();
    may_go.wait(false);
  };
  auto test = std::make_unique<LoopUnderTest>(toy_policy(hooks));
  test->loop->start(1);
  std::optional<InferenceRequest> request;
  while (!request) request = test->loop->wait_for_request(1.0);
  bool was_wanted = true;
  std::thread inference([&, kept = test->loop->inference()] {
    ToyInputs inputs;
    was_wanted =
        kept->infer(*request, inputs.views(), std::vector<float>(kActionDim), inputs.noise, 1);
  });
  is_running.wait(false);
  test->loop->stop(StopCategory::kStopKeepPower, "");
  CHECK(test->loop->wait_until_ended(2.0));
  test.reset();
  may_go = true;
  may_go.notify_all();
  inference.join();
  CHECK(!was_wanted);
}

void a_cancelled_inference_ends_between_two_steps() {
  std::atomic<bool> cancel = false;
  int steps = 0;
  Hooks hooks;
  hooks.on_step = [&](const Memory&) {
    if (++steps == 2) cancel = true;
  };
  const std::shared_ptr<FlowPolicy> policy = toy_policy(hooks);
  ToyInputs inputs;
  std::vector<float> actions(policy->num_action_values());
  const auto infer = [&] {
    policy->infer(inputs.views(), inputs.noise, actions, nullptr, &cancel);
  };
  CHECK_CONTAINS(message_of<InferenceCancelled>(infer), "cancelled");
  CHECK_EQUAL(steps, 2);
  cancel = false;
  infer();
  CHECK_EQUAL(steps, 2 + kNumInferenceSteps);
}

void a_failing_engine_stops_with_its_own_words() {
  Hooks hooks;
  hooks.on_prefix = [] { throw std::runtime_error("device lost"); };
  LoopUnderTest test(toy_policy(hooks), {.max_retries = 1});
  test.loop->start(1);
  ToyInputs inputs;
  for (int failures = 0; failures < 2;) {
    const auto request = test.loop->wait_for_request(1.0);
    CHECK(request.has_value());
    CHECK_EQUAL(message_of<std::runtime_error>([&] {
                  test.loop->inference()->infer(*request, inputs.views(),
                                                std::vector<float>(kActionDim), inputs.noise, 1);
                }),
                "device lost");
    ++failures;
  }
  CHECK(test.loop->wait_until_ended(2.0));
  CHECK_CONTAINS(test.loop->reason(), "retries_exhausted");
  CHECK_CONTAINS(test.loop->reason(), "device lost");
}

void chunks_of_a_wrong_length_are_failures() {
  LoopUnderTest test(nullptr, {.max_retries = 0});
  test.loop->start(1);
  const auto request = test.loop->wait_for_request(1.0);
  CHECK(request.has_value());
  const auto submit = [&] { test.loop->inference()->submit(*request, std::vector(3, 0.0F), 1); };
  CHECK_CONTAINS(message_of<std::invalid_argument>(submit), "(H, 2) with H of at least");
  CHECK(test.loop->wait_until_ended(2.0));
  CHECK_CONTAINS(test.loop->reason(), "actions: expected");
}

void a_signal_stops_the_loop_and_a_second_one_is_counted() {
  const StopSignals signals;
  LoopUnderTest test(nullptr, {}, true);
  const InferenceThread thread(*test.loop);
  test.loop->start(1);
  run_for(std::chrono::milliseconds(30));
  std::raise(SIGINT);
  std::raise(SIGTERM);
  CHECK(test.loop->wait_until_ended(2.0));
  CHECK_EQUAL(signals.signal(), SIGINT);
  CHECK_EQUAL(StopSignals::count(), 2);
  CHECK(test.loop->status().cause.fault == Fault::kSignal);
  CHECK_CONTAINS(message_of<std::logic_error>([] { const StopSignals second; }), "one at a time");
}

std::atomic<int> earlier_handler_calls = 0;

void the_handlers_from_before_are_restored() {
  struct ::sigaction mine{};
  struct ::sigaction old{};
  mine.sa_handler = [](int) { ++earlier_handler_calls; };
  ::sigaction(SIGHUP, &mine, &old);
  {
    const StopSignals signals;
    std::raise(SIGHUP);
    CHECK_EQUAL(signals.signal(), SIGHUP);
  }
  CHECK_EQUAL(earlier_handler_calls.load(), 0);
  std::raise(SIGHUP);
  CHECK_EQUAL(earlier_handler_calls.load(), 1);
  ::sigaction(SIGHUP, &old, nullptr);
}

void what_the_system_refuses_is_said() {
  LoopUnderTest test(nullptr, {.scheduling = {.priority = 1, .cpu = 100'000}});
  const Scheduling& scheduling = test.loop->scheduling();
  CHECK_EQUAL(scheduling.priority.asked, 1);
  CHECK((scheduling.priority.got == 1) == scheduling.priority.error.empty());
  CHECK_EQUAL(scheduling.cpu.got, -1);
  CHECK_CONTAINS(scheduling.cpu.error, "sched_setaffinity");
  CHECK(scheduling.locked_bytes.asked > 0);
}

void every_tick_is_drained_once() {
  LoopUnderTest test(nullptr, {.control_hz = 500.0});
  const InferenceThread thread(*test.loop);
  test.loop->start(1);
  SpscRing& ring = test.loop->core().ticks();
  std::uint64_t sequence = 0;
  std::vector<std::byte> record(ring.record_bytes());
  const auto drain = [&] {
    while (ring.size() > 0) {
      ring.read(record.data(), 1);
      TickHeader header;
      std::memcpy(&header, record.data(), sizeof(header));
      if (header.sent_ns != 0) CHECK_EQUAL(header.sequence, ++sequence);
    }
  };
  while (sequence < 100) drain();
  test.loop->finish();
  CHECK(test.loop->wait_until_ended(2.0));
  drain();
  CHECK_EQUAL(sequence, test.loop->core().counts().ticks.get());
}

}  // namespace

std::vector<Case> realtime_loop_cases() {
  return {
      {"a session runs and stops", a_session_runs_and_stops},
      {"closing a running loop stops the robot", closing_a_running_loop_stops_the_robot},
      {"a start that is refused says why", a_start_that_is_refused_says_why},
      {"stopping and destruction do not wait for an inference",
       stopping_and_destruction_do_not_wait_for_an_inference},
      {"a cancelled inference ends between two steps",
       a_cancelled_inference_ends_between_two_steps},
      {"a failing engine stops with its own words", a_failing_engine_stops_with_its_own_words},
      {"chunks of a wrong length are failures", chunks_of_a_wrong_length_are_failures},
      {"a signal stops the loop and a second one is counted",
       a_signal_stops_the_loop_and_a_second_one_is_counted},
      {"the handlers from before are restored", the_handlers_from_before_are_restored},
      {"what the system refuses is said", what_the_system_refuses_is_said},
      {"every tick is drained once", every_tick_is_drained_once},
  };
}

}  // namespace flux::test
