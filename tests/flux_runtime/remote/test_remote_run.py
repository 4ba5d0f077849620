"""`flux-runtime run --remote` against `flux-runtime serve`, and what else knows of it."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_runtime.cli import main
from flux_runtime.doctor import diagnose_server
from flux_runtime.realtime.remote_options import RemoteOptions

from ...serving import SHIPPED, Served, serving
from .fake_server import FakeServer, renamed

pytestmark = pytest.mark.usefixtures("core")
STEPS = 34


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    if importlib.util.find_spec("mujoco") is None:  # not imported, before its settings are made
        pytest.skip("no mujoco: pip install 'flux-runtime[sim]'")
    with serving(tmp_path_factory.mktemp("served")) as running:
        yield running


class Runs:
    """Runs the simulated ALOHA for some steps, as the command line does."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capsys = folder, capsys

    def run(self, name: str, *options: object) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Returns the report, and what the episode has recorded."""
        directory = self._folder / name
        words = ["run", "--robot", "aloha-sim", "--episodes", 1, "--max-steps", STEPS, "--json"]
        code = main([str(word) for word in (*words, "--record", directory, *options)])
        out, err = self._capsys.readouterr()
        assert code == 0, err
        with np.load(directory / "episode_000000.npz") as arrays:
            recorded = {key: arrays[key] for key in ("command", "state", "flags")}
        return json.loads(out), recorded

    def refused(self, *options: object, code: int = 2) -> str:
        """Returns the line with which a command is refused."""
        assert main([str(word) for word in options]) == code
        out, err = self._capsys.readouterr()
        assert out == "" and err.count("\n") == 1, err
        return err


@pytest.fixture
def runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Runs:
    return Runs(tmp_path, capsys)


@pytest.mark.parametrize(
    ("mode", "delay"),
    [
        *(("sync", 0), ("async", 3), ("rtc", 4)),
        pytest.param("ensemble", 3, marks=pytest.mark.slow),  # asks as async does, more often
    ],
)
def test_on_simulated_time_every_command_is_that_of_the_same_policy_here(
    runs: Runs, served: Served, mode: str, delay: int
) -> None:
    options = ("--mode", mode, "--inference-delay", delay, "--seed", 10_003)
    here, local = runs.run("here", *options)
    there, remote = runs.run("there", *options, "--remote", served.url)
    for name, values in local.items():
        assert values.tobytes() == remote[name].tobytes(), name
    assert len(np.unique(local["command"], axis=0)) > 20
    same = ("mode", "rtc", "prompt", "execution_horizon", "violations", "engine", "deployment")
    assert {name: here[name] for name in same} == {name: there[name] for name in same}
    assert "remote" not in here
    facts = there["remote"]
    assert (facts["url"], facts["sha256"]) == (served.url, served.report["sha256"])
    assert (facts["reconnects"], facts["late_answers"]) == (0, 0)
    assert 0 < facts["round_trip_ms"]["p50"] <= facts["round_trip_ms"]["p95"] < 1000
    assert (there["policy"], there["bundle"]) == ("remote", served.url)


def test_a_recorded_run_is_replayed_with_the_bundle_of_its_server_only(
    runs: Runs, served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.run("there", "--mode", "async", "--remote", served.url)
    directory, other = tmp_path / "there", tmp_path / "other"
    line = runs.refused("replay", directory, code=1)
    assert f"the policy of the run was at {served.url}. Replay it with --bundle DIR" in line
    assert main(["replay", str(directory), "--bundle", str(SHIPPED), "--json"]) == 0
    (episode,) = json.loads(capsys.readouterr().out)["episodes"]
    assert episode["identical"] and episode["ticks"] == STEPS
    assert (episode["other_inputs"], episode["other_decoder"]) == ({}, [])
    assert "on a server" in episode["made_with"]["engine version"]
    shutil.copytree(SHIPPED, other)
    with (other / "manifest.json").open("a") as file:
        file.write("\n")
    line = runs.refused("replay", directory, "--bundle", other, code=1)
    assert "expected the server's bundle, whose manifest.json has the sha256" in line


RUN = ("run", "--robot", "aloha-sim", "--remote", "ws://127.0.0.1:1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((*RUN, "--engine", "openvino"), "--engine: expected none beside --remote"),
        ((*RUN, "--threads", 2), "--threads: expected none beside --remote"),
        ((*RUN, "--bundle", "x"), "--bundle: expected none beside --remote"),
        ((*RUN, "--policy", "hold"), "--policy hold: expected no --remote"),
        ((*RUN[:3], "--pin", "0" * 64), "--pin: expected --remote URL beside it"),
        ((*RUN[:3], "--reconnect-for", 3), "--reconnect-for: expected --remote URL beside it"),
        ((*RUN[:4], "http://gpu"), "--remote: expected ws://HOST:PORT or wss://HOST:PORT"),
        (("doctor", "--insecure"), "--insecure: expected --remote URL beside it"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    runs: Runs, options: tuple[object, ...], message: str
) -> None:
    assert message in runs.refused(*options)


def test_a_server_that_is_not_there_is_one_line_before_anything_is_started(runs: Runs) -> None:
    line = runs.refused(*RUN, code=1)
    assert "ws://127.0.0.1:1: cannot be reached (Connection refused)" in line


def test_a_policy_of_another_robot_is_refused_from_what_its_server_says(
    runs: Runs, server: FakeServer
) -> None:
    line = runs.refused("run", "--robot", "aloha-sim", "--remote", server.url, code=1)
    assert "robots: expected aloha-sim, got toy" in line
    assert server.seen.requests == []


def test_on_simulated_time_the_robot_waits_for_its_server_and_ends_without_it(
    runs: Runs, server: FakeServer, toy: Any
) -> None:
    command = ("run", "--robot", "toy", "--episodes", 1, "--max-steps", 8, "--remote", server.url)
    assert main([str(word) for word in (*command, "--dry-run", "--json")]) == 0
    report = json.loads(runs._capsys.readouterr().out)
    assert (report["ok"], report["remote"]["url"]) == (True, server.url)
    assert len(server.seen.requests) == 1  # the first look
    assert main([str(word) for word in (*command, "--json")]) == 0
    runs._capsys.readouterr()
    assert len(server.seen.requests) == 1 + 3  # and two chunks

    def exchange(*_: object) -> list[bytes]:
        server.kill()
        server.facts = renamed(server.facts)
        server.start()
        return []

    server.seen.requests.clear()
    server.script = exchange
    assert main([str(word) for word in command]) == 1
    _, err = runs._capsys.readouterr()
    assert "expected the policy with which the run began, got another one" in err.splitlines()[-1]


def test_the_doctor_measures_a_server(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flux_runtime.doctor.server.NUM_PINGS", 10)
    monkeypatch.setattr("flux_runtime.doctor.server.NUM_INFERENCES", 3)
    checks = {check.name: check for check in diagnose_server(RemoteOptions(url=served.url))}
    assert all(check.section == "policy server" for check in checks.values())
    names = ("server", "encryption", "round trip", "clock offset", "inference")
    assert list(checks) == [*names, "real-time chunking"]
    assert all(checks[name].ok for name in names)
    assert served.report["sha256"][:16] in checks["server"].found
    assert checks["encryption"].found == "none, and the server is on this computer"
    # Both clocks are the same one, so that its error is known.
    offset_s, bound = checks["clock offset"].found.split(" s, within ")
    assert abs(float(offset_s)) <= float(bound.split()[0]) / 1e3
    assert "needs a delay of" in checks["real-time chunking"].found
    assert "trained: 0, 4, 8" in checks["real-time chunking"].found


def test_the_doctor_says_why_there_is_no_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux_runtime.doctor.diagnose", lambda facts: [])
    assert main(["doctor", "--remote", "ws://127.0.0.1:1", "--json"]) == 1
    (check,) = json.loads(capsys.readouterr().out)["checks"]
    assert (check["name"], check["ok"], check["required"]) == ("server", False, True)
    assert "cannot be reached" in check["found"]
