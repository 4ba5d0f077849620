#include "flux/realtime_loop.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "chunk_inference.hpp"
#include "chunking.hpp"
#include "flux/loopback_link.hpp"
#include "flux/stop_signals.hpp"
#include "histograms.hpp"
#include "module.hpp"
#include "tick_records.hpp"
#include "unlocked.hpp"

namespace flux::bindings {
namespace {

// The signals are watched only inside `with`.
class SignalContext {
 public:
  void enter() { signals_ = std::make_unique<StopSignals>(); }
  void exit() noexcept { signals_.reset(); }
  [[nodiscard]] bool is_entered() const noexcept { return signals_ != nullptr; }
  [[nodiscard]] static int signal() noexcept { return StopSignals::first().load(); }
  [[nodiscard]] static int count() noexcept { return StopSignals::count(); }

 private:
  std::unique_ptr<StopSignals> signals_;
};

StopCategory category_of(int category) {
  if (category >= 0 && category <= 2) return static_cast<StopCategory>(category);
  throw std::invalid_argument(expected_got("category", "0, 1 or 2", std::to_string(category)));
}

RealtimeSettings make_settings(double control_hz, int execution_horizon, const std::string& mode,
                               double hold_for_s, double stale_after_s, double max_state_age_s,
                               double max_frame_age_s, std::vector<double> max_following_error,
                               std::vector<double> max_border_jump,
                               std::vector<double> start_tolerance, std::vector<float> rest_command,
                               std::vector<std::size_t> cameras, double inference_deadline_s,
                               int max_retries, int stop_category, int priority, int cpu,
                               bool lock_memory, double record_s, double command_hz, double speed,
                               const ContinuationSettings& continuation, double first_latency_s,
                               double slow_start_s, double slow_start_speed,
                               std::vector<double> closes_below, std::vector<double> closed_command,
                               double chunk_hold_for_s) {
  return {.control_hz = control_hz,
          .command_hz = command_hz,
          .speed = speed,
          .slow_start_s = slow_start_s,
          .slow_start_speed = slow_start_speed,
          .execution_horizon = execution_horizon,
          .mode = mode_named(mode),
          .continuation = continuation,
          .first_latency_s = first_latency_s,
          .hold_for_s = hold_for_s,
          .chunk_hold_for_s = chunk_hold_for_s,
          .stale_after_s = stale_after_s,
          .max_state_age_s = max_state_age_s,
          .max_frame_age_s = max_frame_age_s,
          .max_following_error = std::move(max_following_error),
          .max_border_jump = std::move(max_border_jump),
          .start_tolerance = std::move(start_tolerance),
          .rest_command = std::move(rest_command),
          .grippers = {.closes_below = std::move(closes_below),
                       .closed_command = std::move(closed_command)},
          .cameras = std::move(cameras),
          .inference_deadline_s = inference_deadline_s,
          .max_retries = max_retries,
          .stop_category = category_of(stop_category),
          .scheduling = {.priority = priority, .cpu = cpu, .lock_memory = lock_memory},
          .record_s = record_s};
}

std::unique_ptr<RealtimeLoop> make_loop(std::shared_ptr<RobotLink> link,
                                        std::shared_ptr<Policy> policy,
                                        const ActionDecoder& decoder, const SafetyLimits& limits,
                                        const RealtimeSettings& settings,
                                        const SignalContext* signals) {
  if (signals != nullptr && !signals->is_entered()) {
    throw std::invalid_argument(
        expected_got("signals", "an entered StopSignals", "one outside its `with`"));
  }
  const py::gil_scoped_release release;
  return std::make_unique<RealtimeLoop>(settings, std::move(policy), decoder, limits,
                                        std::move(link), signals != nullptr);
}

py::dict status(const RealtimeLoop& loop) {
  const LoopStatus now = loop.status();
  const bool is_stopped = now.phase == LoopPhase::kStopping || now.phase == LoopPhase::kStopped;
  py::dict result;
  result["phase"] = phase_name(now.phase);
  result["session"] = now.session;
  result["fault"] = is_stopped ? info_of(now.cause.fault).name : "";
  result["held_by"] =
      now.cause.fault == Fault::kHeldTooLong && is_stopped ? info_of(now.held_by.fault).name : "";
  result["index"] = now.cause.index;
  result["value"] = now.cause.value;
  result["limit"] = now.cause.limit;
  result["category"] = static_cast<int>(now.category);
  result["reason"] = loop.reason();
  result["is_at_rest"] = now.is_at_rest;
  result["ticks"] = loop.core().counts().ticks.get();
  return result;
}

// What ControlLoop counts keeps its name; the other faults have those of the table.
py::dict violations_of(const FaultWatch& faults) {
  py::dict result;
  result["non_finite"] = faults.count(Fault::kNonFiniteChunk);
  result["position"] = faults.count(Fault::kPosition);
  result["velocity"] = faults.count(Fault::kVelocity);
  result["stale"] = faults.count(Fault::kLateChunk);
  for (const FaultInfo& info : kFaults) {
    const bool is_other = info.fault == Fault::kNonFiniteChunk || info.fault == Fault::kLateChunk ||
                          info.reaction == Reaction::kNote ||
                          info.reaction == Reaction::kRefuseStart;
    const bool is_request = info.fault == Fault::kOperatorStop || info.fault == Fault::kSignal;
    if (!is_other && !is_request) result[info.name] = faults.count(info.fault);
  }
  return result;
}

// Chunks by their delay in rows, and how many of them came late; None in other modes.
py::object rtc_stats(const RealtimeLoop& loop) {
  if (loop.settings().mode != Mode::kRtc) return py::none();
  py::dict delays;
  const std::span<const Counter> counts = loop.core().delays();
  for (std::size_t rows = 0; rows < counts.size(); ++rows) {
    if (const std::uint64_t count = counts[rows].get(); count > 0) delays[py::int_(rows)] = count;
  }
  py::dict result;
  result["delays"] = delays;
  result["late"] = loop.core().faults().count(Fault::kRtcLate);
  return result;
}

py::dict stats(RealtimeLoop& loop) {
  const RealtimeCounts& counts = loop.core().counts();
  const FaultWatch& watch = loop.core().faults();
  py::dict faults;
  for (const FaultInfo& info : kFaults) {
    if (const std::uint64_t count = watch.count(info.fault); count > 0) faults[info.name] = count;
  }
  py::dict histograms;
  histograms["tick"] = to_dict(loop.tick_times());
  histograms["jitter"] = to_dict(loop.core().jitter());
  histograms["intervals"] = to_dict(loop.core().intervals());
  if (loop.inference()->policy() != nullptr) {
    histograms.attr("update")(to_dict(loop.inference()->histograms()));
  }
  py::dict dropped;
  dropped["ticks"] = loop.core().ticks().dropped();
  dropped["events"] = loop.core().events().dropped();
  py::dict result;
  result["ticks"] = counts.ticks.get();
  result["deadline_misses"] = counts.deadline_misses.get();
  result["held_ticks"] = counts.held_ticks.get();
  result["chunks"] = counts.chunks.get();
  result["violations"] = violations_of(watch);
  result["faults"] = faults;
  result["dropped"] = dropped;
  result["histograms"] = histograms;
  result["rtc"] = rtc_stats(loop);
  return result;
}

py::dict granted(const Granted& value) {
  py::dict result;
  result["asked"] = value.asked;
  result["got"] = value.got;
  result["error"] = value.error;
  return result;
}

py::dict scheduling(const RealtimeLoop& loop) {
  py::dict result;
  result["priority"] = granted(loop.scheduling().priority);
  result["cpu"] = granted(loop.scheduling().cpu);
  result["locked_bytes"] = granted(loop.scheduling().locked_bytes);
  return result;
}

const char* reaction_name(Reaction reaction) noexcept {
  constexpr const char* kNames[] = {"note", "clamp", "refuse_chunk",
                                    "hold", "stop",  "refuse_start"};
  return kNames[static_cast<std::size_t>(reaction)];
}

void bind_faults(py::module_& module) {
  py::list faults;
  for (const FaultInfo& info : kFaults) {
    if (info.fault == Fault::kNone) continue;
    faults.append(py::make_tuple(info.name, reaction_name(info.reaction), info.text));
  }
  module.attr("FAULTS") = py::tuple(faults);
  py::list phases;
  for (auto phase = LoopPhase::kIdle; phase <= LoopPhase::kStopped;
       phase = static_cast<LoopPhase>(static_cast<std::uint32_t>(phase) + 1)) {
    phases.append(phase_name(phase));
  }
  module.attr("PHASES") = py::tuple(phases);
  module.attr("GAP") = static_cast<int>(kGapBefore);
  module.attr("HOLDING") = static_cast<int>(kHolding);
  module.attr("STOPPING") = static_cast<int>(kStopping);
  module.attr("RETURNING") = static_cast<int>(kReturning);
}

void bind_signals(py::module_& module) {
  py::class_<SignalContext>(module, "StopSignals", "Remembers SIGINT, SIGTERM and SIGHUP.")
      .def(py::init<>())
      .def("__enter__",
           [](py::object self) {
             self.cast<SignalContext&>().enter();
             return self;
           })
      .def("__exit__", [](SignalContext& self, const py::args&) { self.exit(); })
      .def_property_readonly("signal", [](const SignalContext&) { return SignalContext::signal(); })
      .def_property_readonly("count", [](const SignalContext&) { return SignalContext::count(); });
}

void bind_loopback(py::module_& module) {
  py::class_<LoopbackLink, RobotLink, std::shared_ptr<LoopbackLink>>(
      module, "LoopbackLink", "A robot inside this process that follows every command at once.")
      .def(py::init([](std::size_t action_dim, const std::vector<float>& state,
                       std::size_t num_cameras) {
             return std::make_shared<LoopbackLink>(action_dim, state, num_cameras);
           }),
           py::kw_only(), py::arg("action_dim"), py::arg("state"), py::arg("num_cameras") = 0)
      .def(
          "set_state",
          [](LoopbackLink& link, const py::handle& state) {
            const auto dim = static_cast<std::int64_t>(link.state_dim());
            link.set_state(span_of(require_floats(state, "state", {{dim}})));
          },
          py::arg("state"))
      .def("freeze", &LoopbackLink::freeze, py::arg("time_ns"))
      .def_property_readonly("num_commands", &LoopbackLink::num_commands)
      .def_property_readonly(
          "phase", [](const LoopbackLink& link) { return static_cast<int>(link.phase()); })
      .def_property_readonly(
          "category", [](const LoopbackLink& link) { return static_cast<int>(link.category()); });
}

void bind_settings(py::module_& module) {
  py::class_<RealtimeSettings>(module, "RealtimeSettings", "How a robot is controlled.")
      .def(py::init(&make_settings), py::kw_only(), py::arg("control_hz"),
           py::arg("execution_horizon"), py::arg("mode"), py::arg("hold_for_s") = 2.0,
           py::arg("stale_after_s") = 1.0, py::arg("max_state_age_s") = 0.1,
           py::arg("max_frame_age_s") = 0.5, py::arg("max_following_error") = py::tuple(),
           py::arg("max_border_jump") = py::tuple(), py::arg("start_tolerance") = py::tuple(),
           py::arg("rest_command") = py::tuple(), py::arg("cameras") = py::tuple(),
           py::arg("inference_deadline_s") = 0.0, py::arg("max_retries") = 5,
           py::arg("stop_category") = 2, py::arg("priority") = 0, py::arg("cpu") = -1,
           py::arg("lock_memory") = true, py::arg("record_s") = 60.0, py::arg("command_hz") = 0.0,
           py::arg("speed") = 1.0, py::arg("continuation") = ContinuationSettings(),
           py::arg("first_latency_s") = 0.0, py::arg("slow_start_s") = 0.0,
           py::arg("slow_start_speed") = 1.0, py::arg("closes_below") = py::tuple(),
           py::arg("closed_command") = py::tuple(), py::arg("chunk_hold_for_s") = 0.0)
      .def_property_readonly("inference_deadline_s", &RealtimeSettings::deadline_s)
      .def_property_readonly("period_ns", &RealtimeSettings::period_ns);
}

}  // namespace

void bind_realtime_loop(py::module_& module) {
  bind_faults(module);
  bind_signals(module);
  bind_loopback(module);
  bind_settings(module);
  py::class_<InferenceRequest>(module, "InferenceRequest", "A chunk that the loop waits for.")
      .def_readonly("index", &InferenceRequest::index)
      .def_readonly("session", &InferenceRequest::session)
      .def("as_data", &request_data);
  py::class_<RealtimeLoop>(module, "RealtimeLoop", "The control thread.")
      .def(py::init(&make_loop), py::kw_only(), py::arg("link"), py::arg("policy").none(true),
           py::arg("decoder"), py::arg("limits"), py::arg("settings"),
           py::arg("signals").none(true) = py::none())
      .def(
          "start",
          [](RealtimeLoop& loop, std::uint64_t session, bool is_return_confirmed,
             std::uint64_t max_ticks, bool is_slow, const std::optional<std::string>& mode) {
            std::optional<Mode> named;
            if (mode) named = mode_named(*mode);
            loop.start(session, is_return_confirmed, max_ticks, is_slow, named);
          },
          py::call_guard<py::gil_scoped_release>(), py::arg("session"),
          py::arg("confirmed_return") = false, py::arg("max_ticks") = 0, py::arg("is_slow") = true,
          py::arg("mode") = py::none())
      .def(
          "wait_for_request",
          [](RealtimeLoop& loop, double timeout_s) {
            return unlocked([&] { return loop.wait_for_request(timeout_s); });
          },
          py::arg("timeout_s"))
      .def(
          "infer",
          [](const RealtimeLoop& loop, const InferenceRequest& request, const py::dict& inputs,
             const py::handle& state, const py::handle& noise, std::int64_t observed_ns) {
            return infer(loop.inference(), request, inputs, state, noise, observed_ns);
          },
          py::arg("request"), py::arg("inputs"), py::arg("state"), py::arg("noise"),
          py::arg("observed_ns"))
      .def("inferred_actions",
           [](const RealtimeLoop& loop) { return inferred_actions(*loop.inference()); })
      .def(
          "submit_chunk",
          [](const RealtimeLoop& loop, const InferenceRequest& request, const py::array& actions,
             std::int64_t observed_ns) {
            return submit_chunk(*loop.inference(), request, actions, observed_ns);
          },
          py::arg("request"), py::arg("actions"), py::arg("observed_ns"))
      .def(
          "report_failure",
          [](RealtimeLoop& loop, const InferenceRequest& request, const std::string& text) {
            loop.inference()->fail(request, text);
          },
          py::arg("request"), py::arg("text"))
      .def("finish", &RealtimeLoop::finish)
      .def(
          "stop",
          [](RealtimeLoop& loop, int category, const std::string& reason) {
            loop.stop(category_of(category), reason);
          },
          py::arg("category") = 2, py::arg("reason") = "")
      .def(
          "wait_until_ended",
          [](const RealtimeLoop& loop, double timeout_s) {
            return unlocked([&] { return loop.wait_until_ended(timeout_s); });
          },
          py::arg("timeout_s"))
      .def("status", &status)
      .def("session_start",
           [](const RealtimeLoop& loop) { return start_data(loop.core().session_start()); })
      .def("drain_ticks", [](RealtimeLoop& loop) { return drain_ticks(loop.core()); })
      .def("drain_events", [](RealtimeLoop& loop) { return drain_events(loop.core()); })
      .def("stats", &stats)
      .def_property_readonly("scheduling", &scheduling)
      .def("close", &RealtimeLoop::close, py::call_guard<py::gil_scoped_release>());
}

}  // namespace flux::bindings
