"""A driver in a process of its own: its life, and the death of either side."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.config import bind
from flux_core.errors import RobotError
from flux_core.robots import RobotSpec
from flux_driver.messages import Channel
from flux_runtime.realtime import DriverCancelled, driver_process
from flux_runtime.realtime.driver_messages import DriverMail

PATIENCE_S = 30.0
PERIOD_S = 0.1


def wait_for(condition: Callable[[], object], driver: Any = None) -> None:
    """Waits; with a driver, the policy's side gives signs of life meanwhile."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        if driver is not None:
            driver.link.beat()
        time.sleep(0.002)


def run_state(pid: int) -> str:
    """'T' for a process that is stopped, 'Z' for one that has ended, '' if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def exists(pid: int) -> bool:
    return run_state(pid) not in ("", "Z")


def send(driver: Any, sequence: int, session: int = 1, value: float = 0.0) -> None:
    driver.link.beat()
    command = np.array([value, 0], np.float32)
    now_ns = time.monotonic_ns()
    driver.link.send(command, sequence=sequence, session=session, tick_ns=now_ns, observed_ns=0)


def above_1024(connection: socket.socket) -> socket.socket:
    """Returns the same socket behind a descriptor that select() refuses."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(2048, hard)), hard))
    return socket.socket(fileno=fcntl.fcntl(connection, fcntl.F_DUPFD_CLOEXEC, 1024))


def begin(driver: Any, session: int = 1) -> None:
    driver.begin(session)
    driver.link.announce("running", session=session)


def test_a_driver_is_connected_driven_and_closed(start: Any, arm_log: Any) -> None:
    driver = start()
    assert driver.spec.joint_names == ("shoulder", "elbow") and driver.simulation is None
    driver.connect(["top"])
    assert driver.link.status()["phase"] == "ready"
    begin(driver)
    send(driver, 1, value=0.05)
    wait_for(lambda: driver.link.status()["acknowledged"] == 1, driver)
    wait_for(lambda: driver.observe(["top"])[0][0] == np.float32(0.05), driver)
    _, captured_ns, frames = driver.observe(["top"])
    assert 0 < captured_ns <= time.monotonic_ns()
    image, image_ns = frames["top"]
    assert image.shape == (8, 8, 3) and image.min() == 7 and 0 < image_ns <= time.monotonic_ns()
    driver.link.announce("idle", session=1)
    driver.end()
    driver.close()
    assert [line.split()[0] for line in arm_log.lines()] == ["connect", "send", "close"]
    assert not driver.is_alive() and driver.failure.endswith("exit code 0")


@pytest.mark.parametrize("is_binary", [True, False])
def test_only_a_binary_command_may_jump(start: Any, is_binary: bool) -> None:
    driver = start()
    driver.connect(["top"], binary_mask=np.array([is_binary, False]))
    begin(driver)
    send(driver, 1)
    wait_for(lambda: driver.link.status()["acknowledged"] == 1, driver)
    send(driver, 2, value=1.0)  # 0.2 per command are allowed, and three times that
    outcome = ("acknowledged", 2) if is_binary else ("refused_steps", 1)
    wait_for(lambda: driver.link.status()[outcome[0]] == outcome[1], driver)
    assert driver.link.status()["refused_steps"] == (0 if is_binary else 1)


def test_two_sessions_follow_each_other_and_a_stop_has_its_category(
    start: Any, arm_log: Any
) -> None:
    driver = start()
    driver.connect(["top"])
    begin(driver, 1)
    driver.link.announce("stopped", session=1, category=0)
    wait_for(lambda: driver.link.status()["phase"] == "stopped")
    begin(driver, 2)
    send(driver, 1, session=2)
    wait_for(lambda: driver.link.status()["acknowledged"] == 1, driver)
    assert driver.link.status()["phase"] == "ready"
    assert "stop 2" in arm_log.lines()  # without holds_without_power the power is kept
    wait_for(lambda: [event.name for event in driver.events()] == ["stopped"])


def test_silence_of_the_policy_stops_the_robot(start: Any, arm_log: Any) -> None:
    driver = start()
    driver.connect(["top"])
    begin(driver)
    driver.link.beat()
    last_ns = time.monotonic_ns()
    wait_for(lambda: driver.link.status()["phase"] == "stopped")
    events: list[Any] = []
    wait_for(lambda: events.extend(driver.events()) or events)
    (stopped,) = events
    assert stopped.name == "stopped"
    assert 3 * PERIOD_S * 1e9 <= stopped.time_ns - last_ns < 2e9
    send(driver, 1)
    send(driver, 2)
    begin(driver, 2)
    send(driver, 1, session=2)
    wait_for(lambda: driver.link.status()["acknowledged"] == 1, driver)
    assert [line for line in arm_log.lines() if "send" in line] == ["send 0.0 0.0"]


def test_a_hosts_death_is_seen_at_once(start: Any, arm_log: Any) -> None:
    driver = start()
    driver.connect(["top"])
    os.kill(driver.pid, signal.SIGKILL)
    wait_for(lambda: not driver.link.status()["is_alive"])
    assert not driver.is_alive()
    assert driver.failure == "the driver's process has ended with signal 9"
    with pytest.raises(RobotError, match="has ended with signal 9"):
        driver.begin(1)


def test_a_host_that_was_stopped_sends_no_old_command_and_reports_the_gap(
    start: Any, arm_log: Any
) -> None:
    driver = start()
    driver.connect(["top"])
    begin(driver)
    os.kill(driver.pid, signal.SIGSTOP)
    wait_for(lambda: run_state(driver.pid) == "T")
    send(driver, 1, value=0.01)
    away_until_s = time.monotonic() + 5 * PERIOD_S
    wait_for(lambda: time.monotonic() > away_until_s, driver)
    os.kill(driver.pid, signal.SIGCONT)
    found: list[str] = []

    def is_told() -> bool:
        found.extend(event.name for event in driver.events())
        assert "stopped" not in found
        return {"host_away", "command_too_old"} <= set(found)

    wait_for(is_told, driver)
    assert not any("send" in line for line in arm_log.lines())
    send(driver, 2, value=0.02)
    wait_for(lambda: driver.link.status()["acknowledged"] == 2, driver)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_signals_do_not_end_a_host_while_a_session_runs(start: Any, number: int) -> None:
    driver = start()
    driver.connect([])
    begin(driver)
    os.kill(driver.pid, number)
    send(driver, 1)
    wait_for(lambda: driver.link.status()["acknowledged"] == 1, driver)
    assert os.getsid(driver.pid) == driver.pid != os.getsid(0)


def test_connect_is_cancelled_at_once_and_leaves_no_process(start: Any, arm_log: Any) -> None:
    driver = start("an_arm:Hanging")
    cancelled_s: list[float] = []

    def cancelled() -> bool:
        if arm_log.lines():
            cancelled_s.append(time.monotonic())
        return bool(cancelled_s)

    with pytest.raises(DriverCancelled, match="connect: cancelled"):
        driver.connect(["top"], cancelled=cancelled)
    assert time.monotonic() - cancelled_s[0] < 1
    driver.close()
    assert not exists(driver.pid) and arm_log.lines()[-1] == "close"


def test_a_driver_is_served_where_standard_error_is_closed(core: Any, arm_log: Any) -> None:
    program = (
        "from flux_runtime.realtime import DriverProcess\n"
        "with DriverProcess.start('an_arm:Arm') as driver: driver.connect(['top'])"
    )
    closed = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program]
    assert subprocess.run(closed, timeout=60).returncode == 0
    assert arm_log.lines()[-1] == "close"


def test_a_driver_that_never_closes_is_killed_with_a_warning(
    start: Any, arm_log: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(driver_process, "STOP_AND_CLOSE_S", 1.0)
    driver = start("an_arm:NeverClosing")
    driver.connect(["top"])
    driver.close()
    assert arm_log.lines()[-1] == "close" and not exists(driver.pid)
    assert driver.failure == "the driver's process has ended with signal 9"
    assert "an_arm:NeverClosing: close: expected an answer" in caplog.text


def test_a_close_that_raises_is_a_warning(
    start: Any, arm_log: Any, caplog: pytest.LogCaptureFixture
) -> None:
    raises = "import an_arm\nclass Odd(an_arm.Arm):\n def close(self): raise SystemExit('bus gone')"
    (arm_log.folder / "odd.py").write_text(raises)
    start("odd:Odd").close()
    assert caplog.messages == ["odd:Odd: close(): SystemExit: bus gone. Check the robot"]


def test_an_interrupt_does_not_cut_close_short(
    start: Any, arm_log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_process, "STOP_AND_CLOSE_S", 1.0)
    driver = start("an_arm:NeverClosing")
    driver.connect(["top"])
    own = threading.main_thread().ident
    assert own is not None

    def interrupt() -> None:
        wait_for(lambda: arm_log.lines()[-1] == "close")
        for _ in range(2):
            signal.pthread_kill(own, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        driver.close()
    thread.join()
    assert not exists(driver.pid)


POLICY = """
import os, signal, sys, time
import numpy as np
from flux_runtime.realtime import DriverProcess
driver = DriverProcess.start("an_arm:Arm")
driver.connect(["top"])
driver.begin(1)
driver.link.announce("running", session=1)
sequence = 0
print(driver.pid, flush=True)
while driver.link.status()["phase"] == "ready":
    sequence += 1
    driver.link.beat()
    driver.link.send(np.zeros(2, np.float32), sequence=sequence, session=1,
                     tick_ns=time.monotonic_ns(), observed_ns=0)
    time.sleep(0.02)
for sequence in range(sequence + 1, sequence + 20):
    driver.link.announce("running", session=1)
    driver.link.send(np.ones(2, np.float32), sequence=sequence, session=1,
                     tick_ns=time.monotonic_ns(), observed_ns=0)
    time.sleep(0.01)
print(driver.link.status()["phase"], flush=True)
os._exit(0)
"""


@pytest.fixture
def policy(core: Any, arm_log: Any) -> Iterator[subprocess.Popen[str]]:
    """A policy's process that drives the arm until the driver stops, then goes on regardless."""
    process = subprocess.Popen([sys.executable, "-c", POLICY], stdout=subprocess.PIPE, text=True)
    yield process
    process.kill()
    process.communicate()


def host_of(policy: subprocess.Popen[str]) -> int:
    assert policy.stdout is not None
    return int(policy.stdout.readline())


def test_the_death_of_the_policy_stops_and_closes_the_robot(policy: Any, arm_log: Any) -> None:
    host = host_of(policy)
    wait_for(lambda: "send 0.0 0.0" in arm_log.lines())
    policy.kill()
    wait_for(lambda: not exists(host))
    assert arm_log.lines()[-2:] == ["stop 2", "close"]


def test_a_policy_that_was_stopped_finds_its_session_ended(policy: Any, arm_log: Any) -> None:
    host = host_of(policy)
    wait_for(lambda: "send 0.0 0.0" in arm_log.lines())
    policy.send_signal(signal.SIGSTOP)
    wait_for(lambda: arm_log.lines()[-1] == "stop 2")
    policy.send_signal(signal.SIGCONT)
    assert policy.stdout.readline() == "stopped\n"
    wait_for(lambda: not exists(host))
    assert arm_log.lines()[-2:] == ["stop 2", "close"]  # nothing was sent after the stop


def test_a_simulated_robot_is_reset_and_tells_its_stages(start: Any, arm_log: Any) -> None:
    (arm_log.folder / "a_simulation.py").write_text(SIMULATION)
    driver = start("a_simulation:Sim")
    assert driver.simulation.task == "count"
    driver.connect(["top"])
    driver.reset(3)
    assert driver.stages(0b01) == {"counted": True, "counting": False}
    begin(driver)
    send(driver, 1)
    wait_for(lambda: driver.link.status()["acknowledged"] == 1, driver)
    assert driver.stages(driver.link.status()["progress"]) == {"counted": False, "counting": True}


SIMULATION = """
from types import SimpleNamespace
import an_arm, numpy as np
class Sim:
    spec = an_arm.Arm.spec
    task, success_stage, end_state = "count", "counted", "counting"
    num = 0
    def connect(self): ...
    def reset(self, seed): self.num = 0
    def state(self): return np.zeros(2, np.float32)
    def observe(self, prompt, cameras): return SimpleNamespace(images=self.render(cameras))
    def render(self, cameras): return {name: np.zeros((8, 8, 3), np.uint8) for name in cameras}
    def command(self, action): self.num += 1
    def stages(self): return {"counted": self.num > 1, "counting": self.num > 0}
    def close(self): ...
"""


def test_every_described_robot_survives_the_way_as_a_dict(start: Any, arm_log: Any) -> None:
    source = "import an_arm\nfrom flux_core.robots import ROBOT_SPECS\n"
    for name in ("ur3", "aloha"):
        source += f"class {name.title()}(an_arm.Arm): spec = ROBOT_SPECS[{name!r}]\n"
    (arm_log.folder / "described.py").write_text(source)
    from flux_core.robots import ROBOT_SPECS

    for name in ("ur3", "aloha"):
        assert start(f"described:{name.title()}").spec == ROBOT_SPECS[name]
    assert bind(RobotSpec, __import__("dataclasses").asdict(ROBOT_SPECS["ur3"]), "spec")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nothing_like_this", "cannot be loaded (ModuleNotFoundError: No module named"),
        ("raise SystemExit('over')", "cannot be loaded (SystemExit: over)"),
        ("import os; os._exit(3)", "the driver's process has ended with exit code 3"),
        ("import os; os.kill(os.getpid(), 11)", "the driver's process has ended with signal 11"),
        ("import an_arm\nclass Odd(an_arm.Arm): spec = None", "spec: expected a RobotSpec or a"),
        (
            "import an_arm\nclass Odd(an_arm.Arm): spec = {'name': 'odd'}",
            "spec: expected the fields of a RobotSpec, got no joint_names",
        ),
        (
            "import an_arm\nclass Odd(an_arm.Arm): spec = dict(an_arm.Arm.spec, control_hz='50')",
            "spec.control_hz: expected a number above 0, got '50'",
        ),
        (
            "import an_arm\nclass Odd(an_arm.Arm): spec = dict(an_arm.Arm.spec, lower=(5, 5))",
            "lower: shoulder: expected less than upper (1.0), got 5.0",
        ),
        (
            "class Odd:\n def connect(self): ...\n def state(self): ...\n"
            " def observe(self, prompt, cameras): ...\n def command(self, action): ...\n"
            " def close(self): ...\n",
            "For a real robot write read_state(), read_frames(), send() and stop() instead",
        ),
        (
            "import an_arm\nclass Odd(an_arm.Arm):\n"
            " spec = dict(an_arm.Arm.spec, rest_command=(0, 0))\n def speed_scaling(self): ...\n",
            "speed_scaling(): expected none, because the robot is commanded by differences",
        ),
        ("class Odd: ...", "expected a Robot, got Odd without connect(), read_state(), read_fram"),
    ],
)
def test_a_faulty_driver_is_refused_in_one_line(
    start: Any, arm_log: Any, source: str, expected: str
) -> None:
    (arm_log.folder / "odd.py").write_text(source)
    with pytest.raises(RobotError) as caught:
        start("odd:Odd")
    assert expected in str(caught.value) and "\n" not in str(caught.value)
    assert str(caught.value).startswith("odd:Odd")


def program(folder: Path, text: str) -> Path:
    path = folder / "a program"
    path.write_text(text)
    path.chmod(0o755)
    return path


HELLO = """#!{python}
import json, os, socket, sys, time
hello = dict(kind="hello", protocol=1, python="3.11.2", executable="", pid=os.getpid())
hello.update({changes})
socket.socket(fileno=int(sys.argv[2])).send(json.dumps(hello).encode())
"""


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"python": "3.7.16"}, "expected a Python of at least 3.8, got 3.7.16. Name a newer"),
        ({"protocol": 2}, "expected a driver host that speaks protocol 1, got 2"),
    ],
)
def test_another_version_is_refused(
    start: Any, tmp_path: Path, changes: dict[str, object], expected: str
) -> None:
    path = program(tmp_path, HELLO.format(python=sys.executable, changes=changes))
    with pytest.raises(RobotError) as caught:
        start(python=path)
    assert str(path) in str(caught.value) and expected in str(caught.value)


@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        (None, 0, "got no such file"),
        ("#!/bin/sh", 0o644, "got a file that is not executable"),
        ("#!/bin/sh\nexit 7", 0o755, "does not serve a driver (the driver's process has ended wi"),
        ("#!/no/such/interpreter", 0o755, "got a file that cannot be started (No such file"),
        ("\x7fELF", 0o755, "got a file that cannot be started (Exec format error)"),
    ],
)
def test_what_is_not_python_is_refused(
    start: Any, tmp_path: Path, text: str | None, mode: int, expected: str
) -> None:
    path = tmp_path / "python"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(RobotError) as caught:
        start(python=path)
    message = str(caught.value)
    assert message.startswith(f"--driver-python {path}: expected a Python of at least 3.8, got ")
    assert expected in message and "\n" not in message


def test_another_interpreter_gets_none_of_our_variables(
    start: Any, arm_log: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script may set up an environment, such as ROS's, and then start its Python."""
    monkeypatch.setenv("VIRTUAL_ENV", "/ours")
    script = f'#!/bin/sh\nenv > "$ARM_LOG"\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n'
    driver = start(python=program(tmp_path, script))
    assert driver.spec.name == "two-joints"
    names = {line.partition("=")[0] for line in arm_log.lines()}
    assert "ARM_LOG" in names and not {"PYTHONPATH", "VIRTUAL_ENV"} & names


def other_interpreters() -> Iterator[str]:
    """Other interpreters that have numpy, the one that FLUX_DRIVER_PYTHON names first."""
    named = os.environ.get("FLUX_DRIVER_PYTHON")
    others = (f"python3.{minor}" for minor in range(8, 20) if minor != sys.version_info.minor)
    for path in filter(None, (named, *map(shutil.which, others))):
        with contextlib.suppress(subprocess.SubprocessError):
            subprocess.run([path, "-c", "import numpy"], check=True, capture_output=True)
            yield path


def test_the_driver_may_run_in_another_version_of_python(
    start: Any, arm_log: Any, tmp_path: Path
) -> None:
    interpreter = next(other_interpreters(), None)
    if interpreter is None:
        pytest.skip("no other Python with numpy is on PATH or in FLUX_DRIVER_PYTHON")
    script = f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {interpreter} "$@"\n'
    driver = start(python=program(tmp_path, script))
    driver.connect(["top"])
    begin(driver)
    send(driver, 1)
    wait_for(lambda: driver.link.status()["acknowledged"] == 1, driver)


def test_what_a_driver_prints_goes_to_standard_error(
    start: Any, arm_log: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    (arm_log.folder / "loud.py").write_text(
        "import an_arm\nclass Arm(an_arm.Arm):\n def connect(self): print('connecting')\n"
    )
    driver = start("loud:Arm")
    driver.connect([])
    driver.close()
    assert capfd.readouterr() == ("", "connecting\n")


def test_the_drivers_process_gets_the_niceness_that_is_asked_for(
    start: Callable[..., Any],
) -> None:
    driver = start(niceness=5)  # a process may always give way
    assert driver.niceness == {"asked": 5, "got": 5, "error": ""}
    pid = driver._process.pid
    assert os.getpriority(os.PRIO_PROCESS, pid) == 5
    autogroup = Path(f"/proc/{pid}/autogroup")
    if autogroup.exists():
        assert autogroup.read_text().split()[-1] == "5"


def test_a_niceness_that_is_not_permitted_is_told(
    start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(which: int, pid: int, niceness: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    mine = os.getpriority(os.PRIO_PROCESS, 0)
    assert start(niceness=-10).niceness == {"asked": -10, "got": mine, "error": "Permission denied"}


def test_messages_arrive_behind_a_descriptor_above_1023() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mail = DriverMail(process, above_1024(ours), "arm")
        Channel(theirs).send({"kind": "hello", "python": "3.12"})
        assert mail.wait_for("hello", "hello", timeout_s=PATIENCE_S) == {"python": "3.12"}
        theirs.close()
        assert mail.has_ended.wait(PATIENCE_S)
        mail.close()
        ours.close()


def test_the_class_of_a_driver_gets_its_arguments(start: Callable[..., Any], arm_log: Any) -> None:
    """They may be longer than a command line, and are of any kind that JSON has."""
    start("my-arm", target="an_arm:Addressed", arguments={"address": {"host": "h" * 300_000}})
    assert arm_log.lines() == ["address 300000 7"]
    known = "--robot-config: expected some of address, port, got 'adress'"
    with pytest.raises(RobotError, match=rf"^my-arm: an_arm:Addressed: {known}"):
        start("my-arm", target="an_arm:Addressed", arguments={"adress": "h"})
    with pytest.raises(RobotError, match="expected plain data for its class, got Object of type"):
        start("my-arm", target="an_arm:Addressed", arguments={"address": object()})
