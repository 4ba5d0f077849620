#include "tick_records.hpp"

#include <pybind11/stl.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "flux/fault_watch.hpp"
#include "flux/faults.hpp"
#include "flux/spsc_ring.hpp"

namespace flux::bindings {

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
  const auto input = [&](const char* name, const char* format, std::size_t offset) {
    plain(name, format, layout.inputs + offset);
  };
  input("now_ns", "<i8", offsetof(TickInputs, now_ns));
  input("state_count", "<u8", offsetof(TickInputs, state_count));
  input("speed_scaling", "<f8", offsetof(TickInputs, speed_scaling));
  input("heartbeat_ns", "<i8", offsetof(TickInputs, heartbeat_ns));
  input("driver_session", "<u8", offsetof(TickInputs, driver_session));
  input("dropped_old", "<u8", offsetof(TickInputs, dropped_old));
  input("refused_steps", "<u8", offsetof(TickInputs, refused_steps));
  input("ticket", "<u8", offsetof(TickInputs, ticket));
  input("epoch", "<u8", offsetof(TickInputs, epoch));
  input("signal", "<i4", offsetof(TickInputs, signal));
  input("driver_phase", "u1", offsetof(TickInputs, driver_phase));
  input("is_driver_alive", "u1", offsetof(TickInputs, is_driver_alive));
  input("stop_request", "i1", offsetof(TickInputs, stop_request));
  input("is_finish_requested", "u1", offsetof(TickInputs, is_finish_requested));
  input("mailbox", "u1", offsetof(TickInputs, mailbox));
  input("has_discarded", "u1", offsetof(TickInputs, has_discarded));
  input("has_withdrawn", "u1", offsetof(TickInputs, has_withdrawn));
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

py::array drain_ticks(ControlCore& core) {
  SpscRing& ring = core.ticks();
  const std::size_t count = ring.size();
  py::array records(tick_dtype(core.layout()),
                    std::vector<py::ssize_t>{static_cast<py::ssize_t>(count)});
  ring.read(static_cast<std::byte*>(records.mutable_data()), count);
  return records;
}

py::list drain_events(ControlCore& core) {
  constexpr const char* kKinds[] = {"begin", "end", "note"};
  SpscRing& ring = core.events();
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

py::dict start_data(const SessionStart& start) {
  py::dict data;
  data["session"] = start.session;
  data["is_return_confirmed"] = start.is_return_confirmed;
  data["is_slow"] = start.is_slow;
  data["max_ticks"] = start.max_ticks;
  data["now_ns"] = start.now_ns;
  data["state_captured_ns"] = start.sample.captured_ns;
  data["state_count"] = start.sample.count;
  data["speed_scaling"] = start.sample.speed_scaling;
  data["state"] = start.state;
  data["driver_phase"] = static_cast<int>(start.status.phase);
  data["acknowledged"] = start.status.acknowledged;
  data["driver_session"] = start.status.session;
  data["heartbeat_ns"] = start.status.heartbeat_ns;
  data["dropped_old"] = start.status.dropped_old;
  data["refused_steps"] = start.status.refused_steps;
  data["progress"] = start.status.progress;
  data["is_driver_alive"] = start.status.is_alive;
  data["mailbox"] = static_cast<int>(start.mailbox);
  return data;
}

SessionStart start_of(const py::dict& data) {
  SessionStart start;
  const auto read = [&]<typename Value>(const char* name, Value& place) {
    place = data[name].cast<Value>();
  };
  read("session", start.session);
  read("is_return_confirmed", start.is_return_confirmed);
  if (data.contains("is_slow")) read("is_slow", start.is_slow);
  read("max_ticks", start.max_ticks);
  read("now_ns", start.now_ns);
  read("state_captured_ns", start.sample.captured_ns);
  read("state_count", start.sample.count);
  read("speed_scaling", start.sample.speed_scaling);
  read("state", start.state);
  start.status.phase = static_cast<DriverPhase>(data["driver_phase"].cast<std::uint32_t>());
  read("acknowledged", start.status.acknowledged);
  read("driver_session", start.status.session);
  read("heartbeat_ns", start.status.heartbeat_ns);
  read("dropped_old", start.status.dropped_old);
  read("refused_steps", start.status.refused_steps);
  read("progress", start.status.progress);
  read("is_driver_alive", start.status.is_alive);
  start.mailbox = static_cast<ChunkMailbox::Status>(data["mailbox"].cast<std::uint64_t>());
  return start;
}

}  // namespace flux::bindings
