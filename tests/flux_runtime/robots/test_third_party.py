"""Robots from other packages: the one of docs/your-own-robot.md, and broken ones."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.bundle import Bundle
from flux_core.config import unbind
from flux_core.deployment import InferenceRunner
from flux_core.errors import RobotError
from flux_core.robots import DRIVER_GROUP, ROBOT_SPECS, SPEC_GROUP, robot_spec
from flux_runtime.cli import main
from flux_runtime.doctor import diagnose
from flux_runtime.doctor.machine import check_python
from flux_runtime.robots import SimulatedRobot, make_robot, robot_names, spec_of
from flux_runtime.robots.shipped import SHIPPED_ROBOTS

from ...distributions import Installer, install, installer
from ...documents import YOUR_OWN, read_blocks


def my_arm_site(folder: Path) -> Path:
    """What `pip install ./my-arm` installs, with the files of the page."""
    files = {block.file: block.code for block in read_blocks(YOUR_OWN[0].read_text())}
    project = tomllib.loads(files["my-arm/pyproject.toml"])["project"]
    site = install(folder, "my-arm", project["entry-points"])
    (site / "my_arm").mkdir()
    for module in ("__init__.py", "driver.py", "real.py"):
        (site / "my_arm" / module).write_text(files[f"my-arm/my_arm/{module}"])
    return site


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installer:
    """Installs drivers for one test: `(distribution, {robot: 'module:object'}, modules)`."""
    return installer(tmp_path, monkeypatch, DRIVER_GROUP)


@pytest.fixture
def my_arm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("my_arm", "my_arm.driver", "my_arm.real"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.syspath_prepend(str(my_arm_site(tmp_path / "site")))


def test_my_arm_is_described_and_driven(my_arm: None) -> None:
    robot = make_robot("my-arm")
    assert isinstance(robot, SimulatedRobot)
    assert robot.spec == robot_spec("my-arm")
    assert robot_names() == (*SHIPPED_ROBOTS, "my-arm", "my-real-arm")
    camera = {"type": "video", "path": "top.mp4"}
    settings = {"address": "192.168.1.20:7000", "cameras": {"top": camera}}
    real = make_robot("my-real-arm", arguments=settings)
    assert not isinstance(real, SimulatedRobot) and spec_of(real) == robot.spec


def test_my_arm_runs_episodes_by_its_name(
    core: Any, my_arm: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = "run --robot my-arm --policy hold --episodes 2 --max-steps 30 --json"
    assert main([*command.split(), "--record", str(tmp_path / "record")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["robot"] == "my-arm" and report["prompt"] == "grasp the dot"
    assert report["ticks"] == 60 and report["commands_out_of_limit"] == 0
    assert report["success_rate"] == 0.0
    with np.load(tmp_path / "record" / "episode_000000.npz") as recorded:
        assert recorded["state"].shape == recorded["command"].shape == (30, 4)


def test_my_arm_runs_in_a_separate_process_with_a_report(core: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="reports need flux-runtime[report]")
    paths = [str(my_arm_site(tmp_path / "site")), *sys.path]
    program = "import sys; from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    report = tmp_path / "report.html"
    command = "run --robot my-arm --policy hold --episodes 1 --max-steps 20 --json"
    done = subprocess.run(
        [sys.executable, "-c", program, *command.split(), "--report", str(report)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ticks"] == 20
    assert "shoulder" in report.read_text()


def test_a_simulated_robot_without_cameras_has_a_report_without_a_film(
    core: Any, my_arm: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib", reason="reports need flux-runtime[report]")
    robot = make_robot("my-arm")
    blind = dataclasses.replace(robot.spec, cameras=())
    monkeypatch.setattr(type(robot), "spec", blind)
    command = "run --robot my-arm --policy hold --episodes 1 --max-steps 5 --json --report"
    assert main([*command.split(), str(tmp_path / "report.html")]) == 0


def test_help_and_doctor_list_my_arm(
    my_arm: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flux_runtime.doctor.machine.CHECKS", ())
    with pytest.raises(SystemExit):
        main(["run", "--help"])
    assert "my-arm" in capsys.readouterr().out
    (check,) = [check for check in diagnose() if check.name == "robot my-arm"]
    assert check.ok and check.found == "my-arm 1.0 (my_arm.driver:MyArm): 4 joints, 20 Hz, top"


def test_the_doctor_says_what_a_driver_needs_from_its_file(
    my_arm: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux_runtime.doctor.machine.CHECKS", ())
    (check,) = [check for check in diagnose() if check.name == "robot my-real-arm"]
    assert check.ok
    assert check.found == (
        "my-arm 1.0 (my_arm.real:MyRealArm): needs address, cameras from --robot-config"
    )


def test_the_doctor_names_a_broken_driver_and_continues(
    installed: Installer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flux_runtime.doctor.machine.CHECKS", (check_python,))
    installed("broken", {"wreck": "a_driver:Driver"}, {"a_driver": "import nothing_like_this"})
    checks = {check.name: check for check in diagnose()}
    assert not checks["robot wreck"].ok and not checks["robot wreck"].required
    assert "cannot be loaded from broken 1.0" in checks["robot wreck"].found
    assert checks["python"].ok


GOOD = """
from flux_core.robots import ROBOT_SPECS
class Driver:
    spec = ROBOT_SPECS['ur3']
    def connect(self): ...
    def read_state(self): ...
    def read_frames(self, cameras): ...
    def send(self, command, time_s): ...
    def stop(self, category): ...
    def close(self): ...
"""
OLD_STYLE = """
class Driver:
    def connect(self): ...
    def state(self): ...
    def observe(self, prompt, cameras): ...
    def command(self, action): ...
    def close(self): ...
"""


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import nothing_like_this", "cannot be loaded from odd-driver 1.0 (ModuleNotFoundError:"),
        ("raise OSError('no\\nbus')", "cannot be loaded from odd-driver 1.0 (OSError: no bus)"),
        ("x = 1", "has no attribute 'Driver'"),
        ("Driver = 3", "cannot be called: it is int"),
        (
            "class Driver:\n def __init__(self, port): ...",
            "fails (TypeError: Driver.__init__() mis",
        ),
        (
            "class Driver: ...",
            "got Driver without connect(), read_state(), read_frames(), send(), stop(), close()",
        ),
        (GOOD.replace("    def stop(self, category): ...\n", ""), "got Driver without stop()"),
        (OLD_STYLE, "write read_state(), read_frames(), send() and stop() instead; for a simulate"),
        (
            GOOD.replace("ROBOT_SPECS['ur3']", "'ur3'"),
            "spec: expected a RobotSpec or a dict, got s",
        ),
        (GOOD.replace("ROBOT_SPECS['ur3']", "{'name': 'x'}"), "spec.joint_names: RobotSpec needs"),
        (
            GOOD.replace("    spec = ROBOT_SPECS['ur3']\n", ""),
            "expected a RobotSpec, got AttributeError: 'Driver' object has no attribute 'spec'",
        ),
    ],
)
def test_a_faulty_driver_is_refused_in_one_line_with_its_distribution(
    installed: Installer, source: str, expected: str
) -> None:
    installed("odd-driver", {"my-arm": "a_driver:Driver"}, {"a_driver": source})
    with pytest.raises(RobotError) as caught:
        make_robot("my-arm")
    message = str(caught.value)
    assert message.startswith("my-arm: ") and "odd-driver 1.0" in message
    assert expected in message and "\n" not in message


def test_a_driver_may_go_by_another_name_than_its_robot(installed: Installer) -> None:
    """A simulation of a robot can run that robot's bundles."""
    installed("twin", {"ur3-sim": "a_driver:Driver"}, {"a_driver": GOOD})
    assert make_robot("ur3-sim").spec.name == "ur3"


def test_two_drivers_of_one_robot_are_both_named(installed: Installer) -> None:
    installed("one", {"my-arm": "a_driver:Driver"}, {"a_driver": GOOD})
    installed("two", {"my-arm": "a_driver:Driver"})
    with pytest.raises(RobotError, match=r"expected one provider in .*one 1.0 \(a_d.* two 1.0|two"):
        make_robot("my-arm")


@pytest.mark.parametrize("name", ["aloha-sim", "aloha", "ur3"])
def test_the_shipped_drivers_cannot_be_shadowed(installed: Installer, name: str) -> None:
    installed("impostor", {name: "a_trap:Driver"}, {"a_trap": "raise SystemExit('imported')"})
    with pytest.raises(RobotError, match=r"got flux itself and impostor 1.0 \(a_trap:Driver\)"):
        make_robot(name)
    assert robot_names().count(name) == 1


def test_a_robot_with_a_description_but_no_driver_is_a_clear_error(installed: Installer) -> None:
    installed("arm-spec", {"my-arm": "a_trap:SPEC"}, {"a_trap": "1 / 0"}, SPEC_GROUP)
    with pytest.raises(RobotError) as caught:
        make_robot("my-arm")
    assert str(caught.value).startswith(
        "my-arm: expected a driver, got only the robot's description"
    )


THEIRS = dataclasses.replace(ROBOT_SPECS["ur3"], name="their-arm", max_jerk=(500.0,) * 7)
RUNNING = """
import numpy as np
from flux_core.robots import Kinematics, RobotSpec
from flux_core.types import Observation
class Driver:
    spec = {spec}
    task, success_stage, end_state = "wave", "waved", "waving"
    def connect(self): self.reset(0)
    def reset(self, seed): self.position = np.zeros(self.spec.action_dim, np.float32)
    def state(self): return self.position
    def observe(self, prompt, cameras):
        images = self.render(cameras)
        return Observation(images=images, state=self.position, prompt=prompt, timestamp_s=0.0)
    def render(self, cameras):
        return {{name: np.full((64, 64, 3), 90, np.uint8) for name in cameras}}
    def command(self, action): self.position = action
    def stages(self): return {{"waved": False, "waving": False}}
    def close(self): ...
"""


@pytest.fixture(scope="module")
def their_bundle(small_policy: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for a robot that flux does not know and that its config describes."""
    from flux_runtime.export.writer import export_bundle

    policy = small_policy("pi05")
    fields = {
        f.name: getattr(policy.inference, f.name) for f in dataclasses.fields(InferenceRunner)
    }
    inference = InferenceRunner(**fields | {"robot": THEIRS})
    config = {**policy.config, "inference": unbind(inference)}
    stats = {THEIRS.name: policy.norm_stats["ur3"]}
    theirs = dataclasses.replace(policy, inference=inference, config=config, norm_stats=stats)
    out = tmp_path_factory.mktemp("theirs") / "bundle"
    export_bundle(theirs, out, lambda *step: None)
    return out


def test_a_bundle_opens_where_its_robot_is_unknown(core: Any, their_bundle: Path) -> None:
    from flux_core.policy_io import PolicyIO
    from flux_runtime.bench.measure import preprocess_times

    bundle = Bundle.open(their_bundle)
    assert bundle.config["inference"]["type"] == "InferenceRunner"
    assert bundle.config["inference"]["robot"] == json.loads(json.dumps(unbind(THEIRS)))
    assert bundle.manifest.robot == "their-arm"
    assert PolicyIO.from_bundle(bundle).inference.spec == THEIRS
    assert preprocess_times(bundle)["count"] > 0
    assert main(["check", str(their_bundle)]) == 0
    with pytest.raises(RobotError, match="unknown robot 'their-arm'"):
        robot_spec("their-arm")


def test_a_robot_with_only_a_driver_runs_a_bundle_that_contains_its_description(
    core: Any, installed: Installer, their_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installed("theirs", {"their-arm": "d:Driver"}, {"d": RUNNING.format(spec=repr(THEIRS))})
    command = ["run", "--robot", "their-arm", "--bundle", str(their_bundle), "--json"]
    assert main([*command, "--episodes", "1", "--max-steps", "6"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["robot"], report["ticks"], report["commands_out_of_limit"]) == (
        "their-arm",
        6,
        0,
    )


def test_a_driver_with_tighter_limits_refuses_that_bundle_and_names_both(
    core: Any, installed: Installer, their_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = dataclasses.replace(THEIRS, max_velocity=(0.1,) * 7)
    installed("theirs", {"their-arm": "d:Driver"}, {"d": RUNNING.format(spec=repr(slow))})
    command = ["run", "--robot", "their-arm", "--bundle", str(their_bundle), "--dry-run"]
    assert main(command) == 1
    assert (
        "config.json: inference.robot.max_velocity: shoulder_pan: the driver allows at most 0.1, "
        "the bundle asks for 3.14159" in capsys.readouterr().err
    )
