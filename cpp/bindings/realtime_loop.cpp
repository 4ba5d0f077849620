#include "flux/realtime_loop.hpp"

#include <pybind11/stl.h>

#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "chunking.hpp"
#include "flux/loopback_link.hpp"
#include "flux/stop_signals.hpp"
#include "histograms.hpp"
#include "module.hpp"

namespace flux::bindings {
namespace {

bool is_finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Calls without the GIL. A daemon thread that comes back while the interpreter ends must not take
// the GIL again, so it sleeps until the process is gone. The GIL is not taken in a destructor,
// because Python ends such a thread by unwinding its stack, which no destructor survives.
template <typename Call>
auto unlocked(Call call) {
  PyThreadState* thread = PyEval_SaveThread();
  std::exception_ptr error;
  std::optional<decltype(call())> result;
  try {
    result = call();
  } catch (const std::exception&) {
    error = std::current_exception();
  }
  MonotonicClock clock;
  while (is_finalizing()) clock.sleep_until_ns(clock.now_ns() + 1'000'000'000);
  PyEval_RestoreThread(thread);
  if (error) std::rethrow_exception(error);
  return *std::move(result);
}

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
                               const ContinuationSettings& continuation, double first_latency_s) {
  return {.control_hz = control_hz,
          .command_hz = command_hz,
          .speed = speed,
          .execution_horizon = execution_horizon,
          .mode = mode_named(mode),
          .continuation = continuation,
          .first_latency_s = first_latency_s,
          .hold_for_s = hold_for_s,
          .stale_after_s = stale_after_s,
          .max_state_age_s = max_state_age_s,
          .max_frame_age_s = max_frame_age_s,
          .max_following_error = std::move(max_following_error),
          .max_border_jump = std::move(max_border_jump),
          .start_tolerance = std::move(start_tolerance),
          .rest_command = std::move(rest_command),
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

// Runs `convert`; if it refuses what a caller passed, the request is answered with that.
template <typename Convert>
auto answering(ChunkInference& inference, const InferenceRequest& request, Convert convert) {
  try {
    return convert();
  } catch (const std::exception& error) {
    inference.fail(request, error.what());
    throw;
  }
}

bool infer(RealtimeLoop& loop, const InferenceRequest& request, const py::dict& inputs,
           const py::handle& state, const py::handle& noise, std::int64_t observed_ns) {
  // Keeps what the inference uses alive, whatever happens to the loop.
  const std::shared_ptr<ChunkInference> inference = loop.inference();
  if (inference->policy() == nullptr) return inference->infer(request, {}, {}, {}, observed_ns);
  const Policy& policy = *inference->policy();
  const auto action_dim = static_cast<std::int64_t>(inference->mailbox().action_dim());
  const auto named = answering(*inference, request, [&] {
    return std::make_unique<NamedArrays>(inputs, policy.user_inputs());
  });
  const FloatArray states = answering(
      *inference, request, [&] { return require_floats(state, "state", {{action_dim}}); });
  const FloatArray noises =
      answering(*inference, request, [&] { return require_noise(policy, noise); });
  const std::span<const float> state_values = span_of(states);
  const std::span<const float> noise_values = span_of(noises);
  return unlocked([&] {
    return inference->infer(request, named->views(), state_values, noise_values, observed_ns);
  });
}

bool submit_chunk(RealtimeLoop& loop, const InferenceRequest& request, const py::array& actions,
                  std::int64_t observed_ns) {
  ChunkInference& inference = *loop.inference();
  const auto action_dim = static_cast<std::int64_t>(inference.mailbox().action_dim());
  const std::int64_t rows = actions.ndim() == 2 ? actions.shape(0) : 0;
  const FloatArray values = answering(inference, request, [&] {
    if (rows == 0) {
      throw std::invalid_argument(expected_got(
          "actions", "float32 (H, " + std::to_string(action_dim) + ")", describe_array(actions)));
    }
    return require_floats(actions, "actions", {{rows, action_dim}});
  });
  return inference.submit(request, span_of(values), observed_ns);
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

py::dtype tick_dtype(const TickLayout& layout) {
  py::list names;
  py::list formats;
  py::list offsets;
  const auto field = [&](const char* name, const py::object& format, std::size_t offset) {
    names.append(name);
    formats.append(format);
    offsets.append(offset);
  };
  const auto plain = [&](const char* name, const char* format, std::size_t offset) {
    field(name, py::str(format), offset);
  };
  const auto many = [&](const char* name, const char* format, std::size_t count,
                        std::size_t offset) {
    field(name, py::make_tuple(format, py::make_tuple(count)), offset);
  };
  plain("tick_ns", "<i8", offsetof(TickHeader, tick_ns));
  plain("sent_ns", "<i8", offsetof(TickHeader, sent_ns));
  plain("deadline_ns", "<i8", offsetof(TickHeader, deadline_ns));
  plain("session", "<u8", offsetof(TickHeader, session));
  plain("sequence", "<u8", offsetof(TickHeader, sequence));
  plain("observed_ns", "<i8", offsetof(TickHeader, observed_ns));
  plain("state_captured_ns", "<i8", offsetof(TickHeader, state_captured_ns));
  plain("acknowledged", "<u8", offsetof(TickHeader, acknowledged));
  plain("chunk", "<i8", offsetof(TickHeader, chunk));
  plain("row", "<i4", offsetof(TickHeader, row));
  plain("flags", "<u4", offsetof(TickHeader, flags));
  plain("phase", "<u4", offsetof(TickHeader, phase));
  plain("progress", "<u4", offsetof(TickHeader, progress));
  plain("speed", "<f4", offsetof(TickHeader, speed));
  many("frame_captured_ns", "<i8", layout.num_cameras, layout.frames);
  many("state", "<f4", layout.state_dim, layout.state);
  many("command", "<f4", layout.action_dim, layout.command);
  py::dict spec;
  spec["names"] = names;
  spec["formats"] = formats;
  spec["offsets"] = offsets;
  spec["itemsize"] = layout.bytes;
  return py::dtype::from_args(spec);
}

py::array drain_ticks(RealtimeLoop& loop) {
  SpscRing& ring = loop.core().ticks();
  const std::size_t count = ring.size();
  py::array records(tick_dtype(loop.core().layout()),
                    std::vector<py::ssize_t>{static_cast<py::ssize_t>(count)});
  ring.read(static_cast<std::byte*>(records.mutable_data()), count);
  return records;
}

py::list drain_events(RealtimeLoop& loop) {
  constexpr const char* kKinds[] = {"begin", "end", "note"};
  SpscRing& ring = loop.core().events();
  std::vector<Event> events(ring.size());
  ring.read(reinterpret_cast<std::byte*>(events.data()), events.size());
  py::list result;
  for (const Event& event : events) {
    py::dict entry;
    entry["time_ns"] = event.time_ns;
    entry["session"] = event.session;
    entry["tick"] = event.tick;
    entry["name"] = info_of(event.fault).name;
    entry["what"] = kKinds[static_cast<std::size_t>(event.kind)];
    entry["index"] = static_cast<int>(event.index);
    entry["value"] = event.value;
    entry["limit"] = event.limit;
    result.append(entry);
  }
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
           py::arg("first_latency_s") = 0.0)
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
      .def_readonly("session", &InferenceRequest::session);
  py::class_<RealtimeLoop>(module, "RealtimeLoop", "The control thread.")
      .def(py::init(&make_loop), py::kw_only(), py::arg("link"), py::arg("policy").none(true),
           py::arg("decoder"), py::arg("limits"), py::arg("settings"),
           py::arg("signals").none(true) = py::none())
      .def("start", &RealtimeLoop::start, py::call_guard<py::gil_scoped_release>(),
           py::arg("session"), py::arg("confirmed_return") = false, py::arg("max_ticks") = 0)
      .def(
          "wait_for_request",
          [](RealtimeLoop& loop, double timeout_s) {
            return unlocked([&] { return loop.wait_for_request(timeout_s); });
          },
          py::arg("timeout_s"))
      .def("infer", &infer, py::arg("request"), py::arg("inputs"), py::arg("state"),
           py::arg("noise"), py::arg("observed_ns"))
      .def("submit_chunk", &submit_chunk, py::arg("request"), py::arg("actions"),
           py::arg("observed_ns"))
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
      .def("drain_ticks", &drain_ticks)
      .def("drain_events", &drain_events)
      .def("stats", &stats)
      .def_property_readonly("scheduling", &scheduling)
      .def("close", &RealtimeLoop::close, py::call_guard<py::gil_scoped_release>());
}

}  // namespace flux::bindings
