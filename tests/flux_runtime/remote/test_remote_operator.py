"""An operator pauses and starts a robot in real time whose policy is on a server."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.errors import RobotError
from flux_runtime.control.session import RunOptions
from flux_runtime.operator import opened_desk
from flux_runtime.realtime import RealtimeOptions
from flux_runtime.realtime.remote_options import RemoteOptions
from flux_runtime.run.command import RunHooks, run
from flux_runtime.wire.messages import Infer

from ..operator.conftest import FIRST_LEFT_S, Cue, ScriptedOperator
from .fake_server import FakeServer, Sent, answer_to, facts_of, with_horizon

pytestmark = pytest.mark.usefixtures("core")
HZ = 25.0
HORIZON = 20
OLD = -0.3
"""Where the second joint is sent by the chunk that is under way when the operator pauses."""
ARM = f'''
import os, time
import numpy as np
from flux_core.robots import RobotSpec

SPEC = RobotSpec(
    name="toy", joint_names=("left_a", "left_b", "left_gripper"), lower=(-2.0, -2.0, 0.0),
    upper=(2.0, 2.0, 1.0), max_velocity=(5.0, 5.0, 10.0), units=("rad", "rad", "normalized"),
    cameras=("cam_a", "cam_b"), control_hz={HZ},
)


class Arm:
    """Obeys, and appends each command and its time to the file that SENT names."""

    spec = SPEC
    position = np.zeros(3, np.float32)

    def connect(self): pass
    def read_state(self):
        time.sleep(0.005)
        return self.position, time.monotonic()
    def read_frames(self, cameras):
        time.sleep(0.01)
        return {{name: (np.zeros((6, 8, 3), np.uint8), time.monotonic()) for name in cameras}}
    def send(self, command, time_s):
        self.position = command
        with open(os.environ["SENT"], "a") as file:
            print(time.monotonic(), *command, file=file)
    def stop(self, category): pass
    def close(self): pass
'''


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Makes the arm importable as remote_arm:Arm; yields the file of what it is sent."""
    folder = tmp_path_factory.mktemp("arm")
    (folder / "remote_arm.py").write_text(ARM)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("SENT", str(folder / "sent"))
        yield folder / "sent"


@pytest.fixture
def server(fakes: Any) -> Iterator[FakeServer]:
    """A server whose chunks move the first joint, and nothing else, for 0.8 s."""
    spec = replace(fakes.toy_spec(), control_hz=HZ)
    manifest = with_horizon(fakes.toy_manifest(control_hz=HZ, execution_horizon=8), HORIZON)
    running = FakeServer(facts_of(manifest, spec), lambda s, r: [moving(s, r)])
    yield running
    running.kill()


def moving(server: FakeServer, request: Infer, second: float = 0.0) -> bytes:
    """Returns a chunk that moves the first joint, and sends the second one to a place."""
    rows = np.tile(request.state, (HORIZON, 1))
    rows[:, 0] += 0.004 * np.arange(1, HORIZON + 1)
    rows[:, 1] = second
    return answer_to(server, request, actions=rows.astype(np.float32))


def attend(
    server: FakeServer, operator: ScriptedOperator, reconnect_for_s: float = 30.0
) -> dict[str, Any]:
    """Runs an episode of the arm, and returns the report."""
    options = RunOptions(
        robot="remote_arm:Arm",
        mode="async",
        episodes=1,
        max_seconds=FIRST_LEFT_S,
        remote=RemoteOptions(url=server.url, reconnect_for_s=reconnect_for_s),
        realtime_options=RealtimeOptions(priority=0, hold_for_s=0.3),
    )
    hooks = RunHooks(
        operator=lambda dead_man: opened_desk(dead_man, operator.descriptor), screen=operator
    )
    try:
        return run(options, hooks)
    finally:
        operator.close()


def rows_of(sent: Path) -> NDArray[np.float64]:
    """Returns what the arm was sent: seconds on the monotonic clock, and the joints."""
    return np.loadtxt(sent, ndmin=2) if sent.exists() else np.empty((0, 4))


@dataclass
class PausedAt:
    """A server that lets the operator pause when it is asked the fourth time, and answers late; and
    end the episode when it has been asked three times more.

    Attributes:
        answered_s: when it has answered the first request after that one.
    """

    operator: ScriptedOperator
    answered_s: list[float] = field(default_factory=list[float])
    num_asked: int = 0

    def __call__(self, server: FakeServer, request: Infer) -> Iterable[Sent]:
        """Is its script."""
        self.num_asked += "start" in self.operator.written
        if self.num_asked == 4 + 3:
            self.operator.write("success")
        if self.num_asked > 4:
            self.answered_s.append(time.monotonic())
        if self.num_asked == 4:
            self.operator.write("pause")
            yield 1.0
            yield moving(server, request, OLD)
        else:
            yield moving(server, request)


def test_after_a_pause_no_chunk_from_before_it_is_executed(server: FakeServer, sent: Path) -> None:
    sent.unlink(missing_ok=True)
    operator = ScriptedOperator(Cue("idle", "start"), Cue("paused", "resume"))
    server.script = script = PausedAt(operator)
    report = attend(server, operator)
    assert operator.is_done and script.answered_s
    (episode,) = report["episodes"]
    assert (episode["success"], episode["pauses"], episode["outcome"]) == (True, 1, "finished")
    assert report["commands_out_of_limit"] == 0
    assert report["remote"]["late_answers"] + report["remote"]["reconnects"] >= 1
    rows = rows_of(sent)
    resumed_s, answered_s = operator.written["resume"], script.answered_s[0]
    before = rows[rows[:, 0] < operator.written["pause"]]
    assert np.ptp(before[:, 1]) > 0.02, "it has moved"
    # The chunk that was being executed had rows for as long as this.
    held = rows[(rows[:, 0] > resumed_s) & (rows[:, 0] < answered_s)]
    assert len(held) > 5
    assert np.ptp(held[:, 1:], axis=0).max() < 1e-6
    after = rows[rows[:, 0] > answered_s]
    assert np.ptp(after[:, 1]) > 0.02, "it moves again"
    assert np.abs(rows[:, 2]).max() < 0.01, "what was under way has never been executed"


def test_after_a_server_stayed_away_the_arm_moves_at_the_operators_start_alone(
    server: FakeServer, sent: Path
) -> None:
    operator = ScriptedOperator(Cue("idle", "start"))
    num_asked = 0

    def leave(s: FakeServer, r: Infer) -> Iterable[Sent]:
        nonlocal num_asked
        num_asked += "start" in operator.written
        if num_asked > 2:
            s.kill()
        else:
            yield moving(s, r)

    sent.unlink(missing_ok=True)
    server.script = leave
    with pytest.raises(RobotError, match=r"^toy: stopped by held_too_long: .*cannot be reached"):
        attend(server, operator, reconnect_for_s=0.5)
    assert np.ptp(rows_of(sent)[:, 1]) > 0.02, "it has moved"

    def stay(s: FakeServer, r: Infer) -> Iterable[Sent]:
        nonlocal num_asked
        num_asked += "start" in operator.written
        if num_asked == 4:
            operator.write("success")
        yield moving(s, r)

    server.script = stay
    server.start()
    sent.unlink()
    num_asked, moved = 0, list[int]()

    def wait_and_start() -> None:
        time.sleep(0.3)
        moved.append(len(rows_of(sent)))
        operator.write("start")

    operator = ScriptedOperator(Cue("idle", wait_and_start))
    report = attend(server, operator)
    assert moved == [0]
    (episode,) = report["episodes"]
    assert (episode["success"], episode["outcome"]) == (True, "finished")
    assert np.ptp(rows_of(sent)[:, 1]) > 0.02
