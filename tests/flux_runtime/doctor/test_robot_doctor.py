"""`flux-runtime doctor --robot R --bundle B`: connects, looks, sends nothing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from flux_runtime.cli import main
from flux_runtime.control.session import RunOptions, shipped_policy
from flux_runtime.doctor import diagnose_robot


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the checks of the machine, and looks only for a moment."""
    monkeypatch.setattr("flux_runtime.doctor.machine.CHECKS", ())
    monkeypatch.setattr("flux_runtime.doctor.robot.LOOK_S", 0.2)


def changed(folder: Path, **changes: Any) -> Path:
    """The shipped bundle with another summary of its training set."""
    shutil.copytree(shipped_policy("aloha-sim"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["data_summary"] |= changes
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.mark.usefixtures("quick")
def test_a_robot_as_in_training_is_fine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--robot", "aloha-sim", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    of_robot = {check["name"]: check for check in checks if check["section"] == "deployment"}
    assert [check["found"] for check in of_robot.values() if not check["ok"]] == []
    assert {"robot aloha-sim", "start_pose", "control_rate", "camera_view", "latency"} <= set(
        of_robot
    )
    assert of_robot["camera_size"]["found"] == "not in this bundle"
    assert set(checks[0]) == {"name", "ok", "found", "fix", "required", "section"}


@pytest.mark.usefixtures("quick")
def test_a_hard_suspicion_fails_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(changed(tmp_path / "bundle", fps=25))
    assert main(["doctor", "--robot", "aloha-sim", "--bundle", bundle]) == 1
    shown = capsys.readouterr().out
    assert "FAIL  control_rate" in shown and "50 Hz, recorded 25" in shown
    assert "-> Motions would be 2 times as fast; use the rate of the recordings" in shown


def test_a_run_on_simulated_time_is_warned_and_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    bundle = str(changed(tmp_path / "bundle", fps=25))
    given = ["run", "--robot", "aloha-sim", "--bundle", bundle, "--episodes", "1"]
    given += ["--max-steps", "3", "--json"]
    assert main(given) == 0
    assert "deployment check: control_rate: 50 Hz, recorded 25" in caplog.text
    found = json.loads(capsys.readouterr().out)["deployment"]
    assert [each["name"] for each in found["suspicions"]] == ["control_rate"]
    assert main([*given, "--accept", "control_rate"]) == 0
    accepted = json.loads(capsys.readouterr().out)["deployment"]["accepted"]
    assert [each["name"] for each in accepted] == ["control_rate"]


def test_a_bundle_of_another_robot_is_a_check_that_failed() -> None:
    options = RunOptions(robot="ur3", bundle=shipped_policy("aloha-sim"), policy="bundle")
    (check,) = diagnose_robot(options)[-1:]
    assert not check.ok and check.required and check.name == "robot ur3"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["run", "--robot", "aloha-sim", "--accept", "pose"], "--accept: expected one of"),
        (["doctor", "--bundle", "b"], "--bundle: expected --robot R beside it"),
        (["doctor", "--robot", "aloha-sim", "--accept", "pose"], "--accept: expected one of"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2
    assert message in capsys.readouterr().err
