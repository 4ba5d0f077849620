"""`flux-runtime run`, end to end on a toy robot and on the simulated ALOHA."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.bundle.bundle import MANIFEST_NAME
from flux_core.errors import RobotError
from flux_runtime import read_recording
from flux_runtime.cli import main
from flux_runtime.run.command import RunOptions, open_session, run
from flux_runtime.run.run_log import RunLog

TOY = ("run", "--robot", "toy")
MINIMUM_KEYS = {
    "robot",
    "episodes",
    "success_rate",
    "ci95",
    "strict_success_rate",
    "ticks",
    "deadline_misses",
    "jitter_p99_ms",
    "inference_p50_ms",
    "violations",
    "commands_out_of_limit",
    "engine",
    "policy",
    "mode",
    "bundle",
}


def run_json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    """Runs a command that must succeed and print one JSON object and nothing else."""
    code = main([*arguments, "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert out.count("\n") == 1
    return json.loads(out)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """Runs a command that must fail with one line on stderr and nothing on stdout."""
    assert main(arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_holding_needs_no_bundle(core: Any, toy: Any, capsys: pytest.CaptureFixture[str]) -> None:
    report = run_json(capsys, *TOY, "--policy", "hold", "--episodes", "2", "--max-steps", "40")
    assert set(report) >= MINIMUM_KEYS
    assert (report["policy"], report["engine"], report["bundle"]) == ("hold", "none", None)
    assert [episode["seed"] for episode in report["episodes"]] == [10000, 10001]
    assert set(report["episodes"][0]) >= {
        "success",
        "steps",
        "touched",
        "lifted",
        "transferred",
        "held_by_left_only",
    }
    assert report["success_rate"] == 1.0
    assert report["ticks"] == sum(episode["steps"] for episode in report["episodes"])
    assert report["commands_out_of_limit"] == 0
    assert set(report["violations"]) >= {"non_finite", "position", "velocity", "stale"}
    assert toy.calls[-1] == "close"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_bundle_drives_the_robot(
    core: Any, toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    arguments = (
        *TOY,
        "--bundle",
        str(toy_bundle),
        "--episodes",
        "2",
        "--seed",
        "5",
        "--mode",
        mode,
    )
    report = run_json(capsys, *arguments, "--inference-delay", "1")
    assert report["mode"] == mode
    assert report["bundle"] == str(toy_bundle)
    assert report["prompt"] == "wave <b>both</b> hands"
    assert report["inference_p50_ms"] > 0
    assert report["golden_max_abs_error"] < 1e-4
    assert report["chunks"] >= 2
    assert report["commands_out_of_limit"] == 0


def test_the_same_seed_gives_the_same_commands(
    core: Any, toy: Any, toy_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = []
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        out = tmp_path / name
        run_json(
            capsys,
            *(*TOY, "--bundle", str(toy_bundle), "--episodes", "1", "--seed", seed),
            *("--record", str(out), "--task", "wave"),
        )
        with np.load(out / "episode_000000.npz") as arrays:
            recorded.append(arrays["command"])
        assert json.loads((out / "episodes.jsonl").read_text())["prompt"] == "wave"
    assert (recorded[0] == recorded[1]).all()
    assert not (recorded[0] == recorded[2]).all()


def test_every_chunk_of_every_episode_is_timed(
    core: Any, toy: Any, toy_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "flux_runtime.run.run_log.write_report", lambda path, data: seen.append(data)
    )
    toy.at["transferred"] = 999
    report = run(
        RunOptions(robot="toy", bundle=toy_bundle, episodes=3, max_steps=8, report=Path("x.html"))
    )
    histograms = seen[0].histograms
    assert report["chunks"] == 6
    for stage in ("encode", "copy_in", "prefix", "denoise", "inference"):
        assert histograms[stage]["count"] == 6
    assert histograms["step"]["count"] == 6 * 4
    assert histograms["tick"]["count"] == 3 * 8


def test_a_dry_run_moves_nothing(
    core: Any, toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run_json(capsys, *TOY, "--bundle", str(toy_bundle), "--dry-run")
    assert report["ok"]
    assert toy.calls == ["connect", "observe", "close"]
    assert toy.commands == []


def test_a_missing_camera_is_refused_before_anything_moves(
    core: Any, toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.missing_camera = "cam_b"
    line = refused(capsys, *TOY, "--bundle", str(toy_bundle))
    assert "toy: observation.images: expected an image from cam_b, got cam_a" in line
    assert toy.commands == []
    assert toy.calls[-1] == "close"


def test_a_bundle_with_other_dimensions_is_refused(
    toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = json.loads((toy_bundle / MANIFEST_NAME).read_text())
    data["state_dim"] = 4
    (toy_bundle / MANIFEST_NAME).write_text(json.dumps(data))
    assert "state_dim: expected 3 (robot toy has 3 joints), got 4" in refused(
        capsys, *TOY, "--bundle", str(toy_bundle)
    )
    assert toy.calls == []


@pytest.mark.parametrize("command", ["run", "check"])
def test_a_flipped_byte_is_refused(
    toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = toy_bundle / "denoise.onnx"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    arguments = (
        (*TOY, "--bundle", str(toy_bundle)) if command == "run" else ("check", str(toy_bundle))
    )
    assert "denoise.onnx: sha256 differs from the manifest" in refused(capsys, *arguments)


def test_an_inaccurate_engine_is_refused(
    core: Any, toy: Any, fakes: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = fakes.write_toy_bundle(tmp_path / "off", golden_error=0.01)
    line = refused(capsys, *TOY, "--bundle", str(bundle))
    assert (
        "onnxruntime: expected actions within 0.0001 of the reference, got an error of 0.01" in line
    )
    assert toy.calls == []


def test_a_robot_without_a_shipped_policy_needs_a_bundle(
    toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "flux ships no policy for robot toy" in refused(capsys, *TOY, code=2)


def test_holding_with_a_bundle_is_a_contradiction(
    toy: Any, toy_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(capsys, *TOY, "--policy", "hold", "--bundle", str(toy_bundle), code=2)
    assert "--policy hold: expected no --bundle, got one" in line


def test_a_report_that_could_not_be_written_is_refused_before_the_run(
    toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "nowhere" / "run.html"
    line = refused(capsys, *TOY, "--policy", "hold", "--report", str(path), code=2)
    assert "expected a file in a directory that exists" in line
    assert toy.calls == []


@pytest.mark.parametrize(
    ("error", "code", "outcome", "words"),
    [
        (OSError(5, "Input/output error"), 1, "failed", "error: Input/output error"),
        (KeyboardInterrupt(), 130, "interrupted", "interrupted"),
    ],
)
def test_a_run_that_ends_early_is_recorded_and_reported(
    core: Any,
    toy: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    outcome: str,
    words: str,
) -> None:
    pytest.importorskip("av", reason="reports need flux-runtime[report]")
    obey, toy.at["transferred"] = toy.command, 999

    def command(action: np.ndarray) -> None:
        if "reset 10001" in toy.calls and len(toy.commands) == 12:
            raise error
        obey(action)

    toy.command = command
    page, record = tmp_path / "run.html", tmp_path / "recording"
    options = ("--policy", "hold", "--episodes", "3", "--max-steps", "20")
    outputs = ("--report", str(page), "--record", str(record), "--json")
    assert main([*TOY, *options, *outputs]) == code
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert words in err.splitlines()[-1]
    assert (report["outcome"], [e["steps"] for e in report["episodes"]]) == (outcome, [20, 12])
    assert [e["outcome"] for e in report["episodes"]] == ["finished", outcome]
    assert report["success_rate"] == 0.0
    assert "ended early" in page.read_text()
    assert read_recording(record / "episode_000001.npz").num_ticks == 12
    assert toy.calls[-1] == "close"


def test_a_full_disk_costs_the_page_but_not_the_result(
    core: Any, toy: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("av", reason="reports need flux-runtime[report]")
    page, record = tmp_path / "run.html", tmp_path / "recording"
    # An older page stays; a limit on the size of files stands for the end of the disk.
    page.write_text("older")
    options = ("--policy", "hold", "--episodes", "1", "--max-steps", "2", "--video-episodes", "0")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        code = main([*TOY, *options, "--report", str(page), "--record", str(record), "--json"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    out, err = capsys.readouterr()
    assert (code, json.loads(out)["outcome"]) == (1, "finished")
    assert err.startswith(f"flux-runtime: error: {page}: cannot be written (File too large). Make")
    assert f"its recording is in {record}" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recording", "run.html"]
    assert page.read_text() == "older"


NUMBERS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Checks that a run leaves the handlers of the signals as they were."""
    before = [signal.getsignal(number) for number in NUMBERS]
    yield
    assert [signal.getsignal(number) for number in NUMBERS] == before


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_while_the_page_is_written_costs_only_the_page(
    core: Any,
    toy: Any,
    handlers: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    pytest.importorskip("av", reason="reports need flux-runtime[report]")
    monkeypatch.setattr(Path, "replace", lambda path, target: signal.raise_signal(number))
    options = ("--policy", "hold", "--episodes", "1", "--max-steps", "2", "--video-episodes", "0")
    assert main([*TOY, *options, "--report", str(tmp_path / "run.html"), "--json"]) == 130
    out, err = capsys.readouterr()
    assert json.loads(out)["outcome"] == "finished"
    assert err == f"flux-runtime: interrupted by {number.name}\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", NUMBERS)
def test_a_signal_before_the_robot_is_connected_ends_the_run(
    toy: Any,
    handlers: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
) -> None:
    def open_policy(*arguments: object) -> None:
        signal.raise_signal(number)

    monkeypatch.setattr("flux_runtime.run.command.open_policy", open_policy)
    line = refused(capsys, *TOY, "--policy", "hold", code=130)
    assert line == f"flux-runtime: interrupted by {number.name}\n"
    assert "connect" not in toy.calls


def test_a_hangup_that_the_parent_ignores_stays_ignored(
    core: Any, toy: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "flux_runtime.run.command.open_policy", lambda *_: signal.raise_signal(signal.SIGHUP)
    )
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        report = run_json(capsys, *TOY, "--policy", "hold", "--episodes", "1")
    finally:
        assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN
    assert report["outcome"] == "finished"


def test_the_table_says_how_a_run_ended_early(
    core: Any, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(action: np.ndarray) -> None:
        raise RobotError("toy: cable")

    toy.command = command
    assert main([*TOY, "--policy", "hold"]) == 1
    out, err = capsys.readouterr()
    assert "outcome     failed: toy: cable" in out
    assert err.splitlines()[-1] == "flux-runtime: error: toy: cable"


def test_only_the_episodes_that_the_report_draws_keep_their_ticks(core: Any, toy: Any) -> None:
    log = RunLog(RunOptions(robot="toy", policy="hold", episodes=3, max_steps=4, video_episodes=1))
    with open_session(log.options) as session:
        log.run_episodes(session, lambda result: None)
    assert [len(result.trace.commands) for result in log.results] == [4, 0, 0]
    assert log.report()["ticks"] == 12


def test_an_unknown_robot_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "r2d2: no such robot" in refused(capsys, "run", "--robot", "r2d2", "--policy", "hold")


def test_the_table_is_printed_without_json(
    core: Any, toy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*TOY, "--policy", "hold", "--episodes", "1"]) == 0
    out = capsys.readouterr().out
    assert "100.0%  (95% interval 20.7% to 100.0%)" in out
    assert "commands sent out of limit: 0" in out


def test_the_simulated_aloha_holds_still(core: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gym_aloha", reason="the simulated ALOHA needs flux-core[sim]")
    report = run_json(
        capsys,
        *("run", "--robot", "aloha-sim", "--policy", "hold"),
        *("--episodes", "2", "--max-steps", "6"),
    )
    assert report["ticks"] == 12
    assert report["success_rate"] == 0.0
    assert report["commands_out_of_limit"] == 0
    assert report["prompt"] == "transfer the cube"
