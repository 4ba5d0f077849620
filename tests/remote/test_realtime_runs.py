"""A robot in real time whose policy is elsewhere: networks, servers and links that fail.

docs/remote.md, "When something fails", is the table of these.
"""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path

import pytest

from ..serving import serving
from .namespaces import two_computers
from .proxy import Network, proxied
from .runs import driving, seconds_held

EPISODES = 10
DOWN_S = 3.0
RESTART_S = 60.0
"""More than a server needs to start on a busy machine."""
REALTIME = ("--realtime",)


def network(ms: int) -> Network:
    """A network with that delay on which 2 % of the messages stall."""
    return Network(delay_s=ms / 1e3, stalled=0.02, seed=ms)


@pytest.mark.slow
@pytest.mark.parametrize("ms", [20, 60, 150])
def test_ten_episodes_behind_a_slow_network(ms: int, tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        proxied(server.address, network(ms)) as proxy,
        driving(
            tmp_path / "run",
            f"ws://{proxy.address}",
            *REALTIME,
            *("--episodes", str(EPISODES)),
        ) as drive,
    ):
        run = drive.finished(300)
    assert run.status == 0, run.errors
    successes = [episode["success"] for episode in run.report["episodes"]]
    print(f"{ms} ms: {sum(successes)} of {len(successes)}; {run.report['event_counts']}")
    assert len(successes) == EPISODES
    assert sum(successes) >= EPISODES - 1
    assert run.report["remote"]["reconnects"] == 0


def test_behind_a_slow_network_a_server_that_is_killed_and_back_is_waited_for(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (
        serving(tmp_path, "--listen", address) as server,
        proxied(address, network(60)) as proxy,
        driving(
            tmp_path / "run",
            f"ws://{proxy.address}",
            *REALTIME,
            *("--max-seconds", "90", "--reconnect-for", str(RESTART_S)),
        ) as drive,
    ):
        drive.wait_until_it_moves(1.0)
        server.stop(signal.SIGKILL)
        with serving(tmp_path, "--listen", address):
            run = drive.finished()
    assert run.status == 0, run.errors
    (episode,) = run.report["episodes"]
    assert episode["success"]
    remote = run.report["remote"]
    assert remote["sha256"] == server.report["sha256"]
    assert remote["reconnects"] >= 1  # more often if an answer was late, as on a busy machine
    assert remote["round_trip_ms"]["p50"] >= 60
    # 60 ms are three steps, for which a chunk knows the first four rows of the running one.
    assert max(map(int, run.report["rtc"]["delays"])) >= 4
    assert run.events("starved") or run.events("inference_failed")  # the hold's cause
    assert 0.1 < seconds_held(tmp_path / "run") < RESTART_S


@pytest.mark.slow
def test_a_server_that_stays_away_is_a_stop_with_its_reason(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as server,
        driving(
            tmp_path / "run",
            server.url,
            *REALTIME,
            *("--hold-for", "1", "--reconnect-for", "1.5"),
        ) as drive,
    ):
        drive.wait_until_it_moves(1.0)
        server.stop(signal.SIGKILL)
        run = drive.finished(60)
    assert run.status == 1
    assert (run.report["outcome"], run.report["stopped_by"]) == ("failed", "held_too_long")
    assert server.address in run.error
    assert "Traceback" not in run.errors
    assert 1.0 < seconds_held(tmp_path / "run") < 3.0


def test_a_link_that_is_down_for_three_seconds_is_a_hold(tmp_path: Path) -> None:
    with two_computers() as (gpu, robot):
        listen = ("--listen", f"{gpu.address}:0", "--insecure")
        with (
            serving(tmp_path, *listen, inside=gpu.inside) as server,
            driving(
                tmp_path / "run",
                server.url,
                *REALTIME,
                *("--insecure", "--max-seconds", "30"),
                inside=robot.inside,
            ) as drive,
        ):
            drive.wait_until_it_moves(1.0)
            gpu.set_link("down")
            time.sleep(DOWN_S)
            gpu.set_link("up")
            run = drive.finished()
    assert run.status == 0, run.errors
    (episode,) = run.report["episodes"]
    assert episode["success"]
    assert run.events("starved") or run.events("inference_failed")
    assert DOWN_S / 2 < seconds_held(tmp_path / "run") < DOWN_S + 4
