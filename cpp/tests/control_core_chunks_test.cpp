// How chunks follow each other in real time, and how fast they are executed.
#include <cmath>
#include <map>
#include <random>

#include "allocations.hpp"
#include "check.hpp"
#include "core_rig.hpp"
#include "motion_judge.hpp"

namespace flux::test {
namespace {

constexpr JointLimits kLimits{
    .lower = -1.0, .upper = 1.0, .velocity = 1.0, .acceleration = 10.0, .jerk = 500.0};

RealtimeSettings rtc_settings(ContinuationMethod method = ContinuationMethod::kPrefix) {
  return {.execution_horizon = 6,
          .mode = Mode::kRtc,
          .continuation = {.method = method, .delays = {0, 2, 4}}};
}

// Row `at` of a motion that is slow enough to be followed exactly, also from a standstill.
float line(double at) { return static_cast<float>(1e-4 * at); }

// Answers a request with the line's rows from where the chunk begins.
void give_line(CoreRig& rig, const InferenceRequest& request, int rows = 12) {
  std::vector<float> actions;
  for (int row = 0; row < rows; ++row) {
    const auto at = static_cast<double>(request.progress.next_row + row);
    actions.insert(actions.end(), CoreRig::kDim, line(at));
  }
  rig.mailbox->answer(request, actions, rig.link->now_ns);
}

// The first chunk begins, and all of a later one's time passes between its ticks.
void begin(CoreRig& rig) {
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  give_line(rig, *rig.mailbox->take(rig.link->now_ns));
  rig.tick();
}

// Ticks until the loop asks, at most `count`.
std::optional<InferenceRequest> wait_for_request(CoreRig& rig, int count = 100) {
  for (int i = 0; i < count; ++i) {
    if (auto request = rig.mailbox->take(rig.link->now_ns)) return request;
    rig.tick();
  }
  return {};
}

void commands_between_rows_lie_on_the_chunk() {
  CoreRig rig({.command_hz = 200.0});
  CHECK_EQUAL(rig.tick_ns, 5'000'000);
  begin(rig);
  for (int tick = 0; tick < 40; ++tick) {
    CHECK_NEAR(rig.command(), line(0.25 * tick), 1e-7);
    // The next chunk takes over after the horizon.
    CHECK_EQUAL(rig.headers().back().row, tick % 20 / 4);
    if (const auto request = rig.mailbox->take(rig.link->now_ns)) give_line(rig, *request, 30);
    rig.tick();
  }
  CHECK_EQUAL(rig.count(Fault::kVelocity) + rig.count(Fault::kJerk), 0U);
}

void at_half_the_speed_rows_take_twice_as_long() {
  CoreRig rig({.speed = 0.5});
  begin(rig);
  for (int tick = 0; tick < 20; ++tick) {
    CHECK_NEAR(rig.command(), line(0.5 * tick), 1e-7);
    CHECK_NEAR(rig.headers().back().speed, 0.5, 0.0);
    if (const auto request = rig.mailbox->take(rig.link->now_ns)) give_line(rig, *request);
    rig.tick();
  }
}

// Whatever the mode, the rates and the latencies: what is executed is where the robot is.
void no_row_is_executed_twice_or_left_out() {
  std::mt19937 random(5);
  for (const Mode mode : {Mode::kAsync, Mode::kEnsemble, Mode::kRtc}) {
    for (const double command_hz : {50.0, 100.0, 200.0}) {
      RealtimeSettings settings = rtc_settings();
      settings.mode = mode;
      settings.command_hz = command_hz;
      settings.stale_after_s = 10.0;
      CoreRig rig(settings);
      begin(rig);
      double position = 0.0;
      std::optional<InferenceRequest> request;
      int latency = 0;
      for (int tick = 0; tick < 2000; ++tick) {
        CHECK_NEAR(rig.command(), line(position), 1e-6);
        CHECK_PHASE(rig, LoopPhase::kRunning);
        position += rig.link->speed_scaling * 50.0 / command_hz;
        if (tick % 30 == 0) rig.link->speed_scaling = 0.25 * static_cast<double>(1 + random() % 4);
        if (!request) {
          request = rig.mailbox->take(rig.link->now_ns);
          latency = static_cast<int>(random() % 3);
        } else if (latency-- <= 0) {
          give_line(rig, *request);
          request.reset();
        }
        rig.tick();
      }
      CHECK(rig.core->counts().chunks.get() > 20U);
      CHECK_EQUAL(rig.core->counts().held_ticks.get(), 1U);
    }
  }
}

void an_rtc_chunk_is_asked_for_with_what_is_left_of_the_running_one() {
  CoreRig rig(rtc_settings());
  begin(rig);
  // A chunk took one tick. Two of the rows are known, and the horizon is six.
  const auto request = wait_for_request(rig);
  CHECK_EQUAL(request->prefix_len, 2);
  CHECK_EQUAL(request->progress.next_row, 4);
  const std::span<const float> previous = rig.mailbox->previous();
  CHECK_EQUAL(previous.size(), 8U * CoreRig::kDim);
  for (std::size_t row = 0; row < 8; ++row) {
    CHECK_EQUAL(previous[row * CoreRig::kDim], line(4.0 + static_cast<double>(row)));
  }
  // Its known rows stay the running chunk's to the bit, whatever the policy says of them.
  rig.tick();
  rig.give(*request, 0.5F);
  rig.tick();
  CHECK_EQUAL(rig.command(), line(5.0));
  CHECK_EQUAL(rig.headers().back().row, 1);
  CHECK_EQUAL(rig.count(Fault::kRtcLate), 0U);
  CHECK_EQUAL(rig.core->delays()[0].get(), 1U);
  CHECK_EQUAL(rig.core->delays()[2].get(), 1U);
}

void rows_executed_between_post_and_take_are_left_out_of_what_is_left() {
  CoreRig rig(rtc_settings());
  begin(rig);
  for (int i = 0; rig.mailbox->status() == ChunkMailbox::Status::kFree; ++i) rig.tick();
  rig.ticks(2);
  const auto request = rig.mailbox->take(rig.link->now_ns);
  CHECK_EQUAL(request->progress.next_row, 6);
  CHECK_EQUAL(rig.mailbox->previous()[0], line(6.0));
  CHECK_EQUAL(rig.mailbox->previous().size(), 6U * CoreRig::kDim);
  CHECK_EQUAL(request->prefix_len, 2);
  rig.mailbox->give_up(*request);
  rig.tick();
  rig.ticks(4);
  // One row is left, and two would have to be known.
  const auto second = rig.mailbox->take(rig.link->now_ns);
  CHECK_EQUAL(second->progress.next_row, 11);
  CHECK_EQUAL(second->prefix_len, 0);
}

void a_standing_robot_continues_nothing() {
  CoreRig rig(rtc_settings());
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  const auto request = rig.mailbox->take(rig.link->now_ns);
  CHECK_EQUAL(request->prefix_len, 0);
  CHECK(rig.mailbox->previous().empty());
  rig.ticks(20);
  give_line(rig, *request);
  rig.tick();
  CHECK_EQUAL(rig.headers().back().row, 0);
  CHECK_EQUAL(rig.count(Fault::kRtcLate), 0U);
}

void the_delay_covers_nearly_all_of_the_last_latencies() {
  RealtimeSettings settings = rtc_settings();
  settings.first_latency_s = 0.05;  // 2.5 rows
  CoreRig rig(settings);
  begin(rig);
  auto request = wait_for_request(rig);
  CHECK_EQUAL(request->prefix_len, 4);
  CHECK_EQUAL(request->progress.next_row, 2);
  // Of more than 20 latencies, the longest no longer counts.
  for (int chunk = 0; chunk < 25; ++chunk) {
    give_line(rig, *request);
    rig.tick();
    request = wait_for_request(rig);
  }
  CHECK_EQUAL(request->prefix_len, 2);
  // Longer than any usable delay: the longest one.
  for (int chunk = 0; chunk < 10; ++chunk) {
    rig.ticks(5);
    give_line(rig, *request);
    rig.tick();
    request = wait_for_request(rig);
  }
  CHECK_EQUAL(request->prefix_len, 4);
}

void a_chunk_knows_as_many_rows_as_are_left() {
  RealtimeSettings settings = rtc_settings();
  settings.first_latency_s = 0.07;
  CoreRig rig(settings);
  begin(rig);
  const auto request = wait_for_request(rig);
  CHECK_EQUAL(request->prefix_len, 4);
  rig.ticks(8);
  give_line(rig, *request);
  rig.tick();  // row 8 of 12 is executed
  const auto next = rig.mailbox->take(rig.link->now_ns);
  CHECK(next.has_value());
  CHECK_EQUAL(rig.mailbox->previous().size(), 3U * CoreRig::kDim);
  CHECK_EQUAL(next->prefix_len, 2);
}

void slower_chunks_need_fewer_known_rows() {
  for (const double speed : {1.0, 0.5}) {
    RealtimeSettings settings = rtc_settings();
    settings.first_latency_s = 0.07;
    settings.speed = speed;
    CoreRig rig(settings);
    begin(rig);
    CHECK_EQUAL(wait_for_request(rig)->prefix_len, speed == 1.0 ? 4 : 2);
  }
}

void a_late_rtc_chunk_is_counted_and_faded_in() {
  for (const ContinuationMethod method :
       {ContinuationMethod::kPrefix, ContinuationMethod::kGuidance}) {
    CoreRig rig(rtc_settings(method));
    begin(rig);
    const auto request = wait_for_request(rig);
    const int delay = request->prefix_len;
    CHECK_EQUAL(delay, method == ContinuationMethod::kPrefix ? 2 : 1);
    const std::int64_t first = request->progress.next_row;
    rig.ticks(4);
    rig.give(*request, line(static_cast<double>(first)) + 0.001F, 1e-4F, 12);
    rig.tick();
    CHECK_EQUAL(rig.count(Fault::kRtcLate), 1U);
    const Event event = rig.events().back();
    CHECK(event.kind == EventKind::kNote);
    CHECK_EQUAL(event.value, 4.0);
    CHECK_EQUAL(event.limit, delay);
    // The new rows are 0.001 away; of so many rows, each is closer by the same share.
    for (int row = 0; row < delay; ++row) {
      const double old = static_cast<double>(line(static_cast<double>(first + 4 + row)));
      const double share = static_cast<double>(row + 1) / (delay + 1);
      CHECK_NEAR(rig.command(), old + share * 0.001, 6e-4);
      CHECK((rig.headers().back().flags & kHeld) == 0);
      rig.tick();
    }
    CHECK_PHASE(rig, LoopPhase::kRunning);
  }
}

void ensemble_asks_at_once_and_averages() {
  CoreRig rig({.mode = Mode::kEnsemble});
  begin(rig);
  const auto request = rig.mailbox->take(rig.link->now_ns);
  CHECK(request.has_value());
  CHECK_EQUAL(request->progress.next_row, 1);
  rig.give(*request, line(1.0) + 2e-5F, 1e-4F);
  rig.tick();
  const double weight = std::exp(-0.01);
  CHECK_NEAR(rig.command(), line(1.0) + 2e-5 * weight / (1.0 + weight), 1e-8);
  CHECK(rig.mailbox->take(rig.link->now_ns).has_value());
}

void a_robot_that_slows_itself_down_makes_no_chunk_old() {
  CoreRig rig({.hold_for_s = 0.2, .stale_after_s = 0.1, .inference_deadline_s = 10.0});
  begin(rig);
  rig.link->speed_scaling = 0.05;
  int last_row = 0;
  for (int tick = 0; tick < 150; ++tick) {
    rig.tick();
    const TickHeader header = rig.headers().back();
    CHECK((header.flags & kHeld) == 0);
    CHECK_NEAR(header.speed, 0.05, 1e-9);
    last_row = header.row;
  }
  CHECK_EQUAL(last_row, 8);
  CHECK_EQUAL(rig.count(Fault::kLateChunk), 0U);
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

void a_robot_that_stands_still_by_itself_holds_without_a_fault() {
  CoreRig rig({.hold_for_s = 0.1, .stale_after_s = 0.1, .inference_deadline_s = 0.5});
  begin(rig);
  rig.ticks(3);
  rig.link->speed_scaling = 0.0;
  rig.ticks(100);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  CHECK(rig.core->status().is_at_rest);
  CHECK_EQUAL(rig.headers().back().flags, std::uint32_t{kHeld});
  CHECK(!rig.mailbox->take(rig.link->now_ns).has_value());
  rig.link->speed_scaling = 1.0;
  rig.tick();
  const auto request = rig.mailbox->take(rig.link->now_ns);
  CHECK(request.has_value());
  rig.give(*request, rig.command());
  rig.tick();
  CHECK_EQUAL(rig.headers().back().row, 0);
  CHECK_EQUAL(rig.count(Fault::kStarved) + rig.count(Fault::kLateChunk), 0U);
}

void a_robot_that_stops_itself_while_it_lacks_chunks_is_not_stopped_for_that() {
  CoreRig rig({.hold_for_s = 0.1, .stale_after_s = 0.1, .inference_deadline_s = 0.5});
  begin(rig);
  for (int tick = 0; tick < 20 && rig.count(Fault::kStarved) == 0; ++tick) rig.tick();
  CHECK_EQUAL(rig.count(Fault::kStarved), 1U);
  rig.link->speed_scaling = 0.0;
  rig.ticks(100);
  CHECK_PHASE(rig, LoopPhase::kHolding);
  rig.link->speed_scaling = 1.0;
  rig.tick();
  CHECK(rig.answer(rig.command()));
  rig.tick();
  CHECK_PHASE(rig, LoopPhase::kRunning);
}

// It stops at once, while its command brakes within the limits, and then catches up.
void a_robot_that_stops_by_itself_may_be_behind_until_it_has_caught_up() {
  CoreRig rig(
      {.hold_for_s = 0.2, .max_following_error = {0.01, 0.01}, .inference_deadline_s = 10.0});
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK(rig.answer(0.0F, 0.002F, 16));
  rig.ticks(8);
  rig.link->is_following = false;
  rig.link->speed_scaling = 0.0;
  rig.ticks(40);
  rig.link->state[0] = rig.command() - 0.05F;
  rig.ticks(40);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  rig.link->speed_scaling = 1.0;
  rig.ticks(20);
  CHECK_PHASE(rig, LoopPhase::kRunning);
  std::ranges::copy(rig.core->command(), rig.link->state.begin());
  rig.ticks(2);
  CHECK_EQUAL(rig.count(Fault::kFollowingError), 0U);
  // From now on it has to follow again.
  rig.link->state[0] = rig.command() - 0.05F;
  rig.ticks(6);
  CHECK_EQUAL(rig.count(Fault::kFollowingError), 1U);
}

// Chunks of noise, late and early ones, in every mode, at every rate, with stops and holds.
void every_command_is_within_the_limits_and_every_stop_within_its_bound() {
  std::mt19937 random(11);
  std::uniform_real_distribution<float> jump(-0.05F, 0.05F);
  for (const Mode mode : {Mode::kSync, Mode::kAsync, Mode::kEnsemble, Mode::kRtc}) {
    for (const double command_hz : {50.0, 130.0, 200.0}) {
      RealtimeSettings settings = rtc_settings();
      settings.mode = mode;
      settings.command_hz = command_hz;
      settings.speed = command_hz == 130.0 ? 0.7 : 1.0;
      CoreRig rig(settings);
      CHECK_FAULT(rig.start().fault, Fault::kNone);
      JointJudge judge(kLimits);
      judge.reset(0.0F);
      std::optional<InferenceRequest> request;
      for (int tick = 0; tick < 3000; ++tick) {
        if (!request) request = rig.mailbox->take(rig.link->now_ns);
        if (request && random() % 3 == 0) {
          rig.give(*request, rig.command() + jump(random), 0.01F * jump(random), 12);
          request.reset();
        }
        if (random() % 50 == 0) {
          rig.link->speed_scaling = 0.25 * static_cast<double>(random() % 5);
        }
        rig.tick();
        const char* broken = judge.take(rig.command(), 1.0 / command_hz);
        CHECK_EQUAL(std::string(broken == nullptr ? "" : broken), "");
      }
      CHECK(rig.phase() == LoopPhase::kRunning || rig.phase() == LoopPhase::kHolding);
      rig.core->request_stop(StopCategory::kStopKeepPower);
      // v = 1, a = 10, j = 500: at most 0.02 + 0.12 s, and eight ticks.
      const int bound = static_cast<int>(std::ceil(0.14 * command_hz)) + 12;
      for (int tick = 0; tick < bound && rig.phase() != LoopPhase::kStopped; ++tick) {
        rig.tick();
        if (rig.phase() == LoopPhase::kStopped) break;
        CHECK(judge.take(rig.command(), 1.0 / command_hz) == nullptr);
      }
      CHECK_PHASE(rig, LoopPhase::kStopped);
      CHECK_EQUAL(rig.count(Fault::kStopOverdue), 0U);
    }
  }
}

void no_mode_allocates_in_a_tick() {
  for (const Mode mode : {Mode::kSync, Mode::kAsync, Mode::kEnsemble, Mode::kRtc}) {
    RealtimeSettings settings = rtc_settings();
    settings.mode = mode;
    settings.command_hz = 125.0;
    CoreRig rig(settings);
    CHECK_FAULT(rig.start().fault, Fault::kNone);
    std::size_t in_ticks = 0;
    for (int step = 0; step < 400; ++step) {
      if (step % 3 == 0) rig.answer(rig.command(), 0.0001F, 12);
      rig.deadline_ns += rig.tick_ns;
      rig.link->now_ns = rig.deadline_ns;
      rig.link->speed_scaling = step % 100 > 90 ? 0.0 : 1.0;
      const std::size_t before = num_allocations();
      rig.core->tick(rig.deadline_ns, rig.link->now_ns);
      in_ticks += num_allocations() - before;
    }
    CHECK_EQUAL(in_ticks, 0U);
    CHECK(rig.core->counts().chunks.get() > 5U);
  }
}

void a_session_numbers_its_rows_from_0() {
  CoreRig rig;
  begin(rig);
  rig.ticks(5);
  rig.core->request_finish();
  rig.ticks(10);
  CHECK_PHASE(rig, LoopPhase::kIdle);
  CHECK_FAULT(rig.start().fault, Fault::kNone);
  rig.tick();
  CHECK_EQUAL(rig.mailbox->take(rig.link->now_ns)->progress.next_row, 0);
}

void rates_that_do_not_fit_are_refused() {
  const auto message = [](const RealtimeSettings& settings) {
    return message_of<std::invalid_argument>([&] { CoreRig rig(settings); });
  };
  CHECK_CONTAINS(message({.command_hz = 49.0}), "command_hz: expected at least control_hz 50");
  CHECK_CONTAINS(message({.command_hz = std::nan("")}), "command_hz");
  CHECK_CONTAINS(message({.speed = 0.0}), "speed: expected above 0 and at most 1");
  CHECK_CONTAINS(message({.speed = 1.5}), "speed");
  CHECK_CONTAINS(message({.speed = std::nan("")}), "speed");
  CHECK_CONTAINS(message({.first_latency_s = -1.0}), "first_latency_s");
  for (const RealtimeSettings& settings :
       {RealtimeSettings{.command_hz = 100.0, .rest_command = {0.0F, 0.0F}},
        RealtimeSettings{.speed = 0.5, .rest_command = {0.0F, 0.0F}}}) {
    CHECK_CONTAINS(message(settings), "commanded by differences");
  }
  CHECK_EQUAL(message({.command_hz = 50.0, .rest_command = {0.0F, 0.0F}}), "");
}

void a_latency_that_no_delay_covers_is_refused_with_the_numbers() {
  RealtimeSettings settings = rtc_settings();
  settings.control_hz = 50.0;
  settings.first_latency_s = 0.05;
  CHECK_EQUAL(first_delay(settings, 12), 4);
  settings.first_latency_s = 0.11;
  const std::string text =
      message_of<std::invalid_argument>([&] { (void)first_delay(settings, 12); });
  CHECK_CONTAINS(text, "0.11");
  CHECK_CONTAINS(text, "6 rows");
  CHECK_CONTAINS(text, "0, 2, 4");
  CHECK_CONTAINS(text, "s = 6 and H = 12");
  settings.speed = 0.5;
  CHECK_EQUAL(first_delay(settings, 12), 4);
}

void the_quantile_is_the_nearest_rank() {
  LatencyWindow window;
  CHECK_EQUAL(window.quantile_s(), 0.0);
  window.add(0.5);
  CHECK_EQUAL(window.quantile_s(), 0.5);
  window.clear();
  for (int i = 1; i <= 20; ++i) window.add(i);
  CHECK_EQUAL(window.quantile_s(), 19.0);
  for (int i = 1; i <= 100; ++i) window.add(i);
  CHECK_EQUAL(window.quantile_s(), 98.0);  // of 51 to 100
}

}  // namespace

std::vector<Case> control_core_chunk_cases() {
  return {
      {"commands between rows lie on the chunk", commands_between_rows_lie_on_the_chunk},
      {"at half the speed, rows take twice as long", at_half_the_speed_rows_take_twice_as_long},
      {"no row is executed twice or left out", no_row_is_executed_twice_or_left_out},
      {"an rtc chunk is asked for with what is left of the running one",
       an_rtc_chunk_is_asked_for_with_what_is_left_of_the_running_one},
      {"rows executed between post and take are left out of what is left",
       rows_executed_between_post_and_take_are_left_out_of_what_is_left},
      {"a standing robot continues nothing", a_standing_robot_continues_nothing},
      {"the delay covers nearly all of the last latencies",
       the_delay_covers_nearly_all_of_the_last_latencies},
      {"a chunk knows as many rows as are left", a_chunk_knows_as_many_rows_as_are_left},
      {"slower chunks need fewer known rows", slower_chunks_need_fewer_known_rows},
      {"a late rtc chunk is counted and faded in", a_late_rtc_chunk_is_counted_and_faded_in},
      {"ensemble asks at once and averages", ensemble_asks_at_once_and_averages},
      {"a robot that slows itself down makes no chunk old",
       a_robot_that_slows_itself_down_makes_no_chunk_old},
      {"a robot that stands still by itself holds without a fault",
       a_robot_that_stands_still_by_itself_holds_without_a_fault},
      {"a robot that stops itself while it lacks chunks is not stopped for that",
       a_robot_that_stops_itself_while_it_lacks_chunks_is_not_stopped_for_that},
      {"a robot that stops by itself may be behind until it has caught up",
       a_robot_that_stops_by_itself_may_be_behind_until_it_has_caught_up},
      {"every command is within the limits and every stop within its bound",
       every_command_is_within_the_limits_and_every_stop_within_its_bound},
      {"no mode allocates in a tick", no_mode_allocates_in_a_tick},
      {"a session numbers its rows from 0", a_session_numbers_its_rows_from_0},
      {"rates that do not fit are refused", rates_that_do_not_fit_are_refused},
      {"a latency that no delay covers is refused with the numbers",
       a_latency_that_no_delay_covers_is_refused_with_the_numbers},
      {"the quantile is the nearest rank", the_quantile_is_the_nearest_rank},
  };
}

}  // namespace flux::test
