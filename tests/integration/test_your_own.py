"""The three pages `docs/your-own-*.md`, followed to the letter by somebody who has flux installed.

Every file and command is the pages' own. They are used in a directory outside the repository, with
a fresh virtual environment that sees the installed flux; `pip` really installs the packages there.
Training takes a few steps only, and episodes are short. A controller in this process stands for the
real arm's, and the video of a recorded episode for its camera.
"""

from __future__ import annotations

import json
import os
import re
import socketserver
import subprocess
import sys
import threading
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import ClassVar

import av
import numpy as np
import pytest
import yaml

from flux_core import Bundle
from flux_core.norm_stats import stats_from_json
from flux_runtime.realtime import DriverProcess

from ..documents import COMMANDS, ROOT, YOUR_OWN, Block, read_blocks

FEWER = (
    (r"(python record\.py .*)", r"\1 --episodes 2"),
    (r"(flux-train (?:(?!--cfg-options).)*)$", r"\1 --cfg-options runner.max_steps=2"),
    (r"(flux-train .* --cfg-options .*)", r"\1 runner.log_interval=1 runner.num_noise_samples=1"),
    (r"(flux-runtime run .*--bundle .*)", r"\1 --episodes 1 --max-steps 20"),
    (r"--max-seconds 10", "--max-seconds 1"),
    (r"checkpoint_epoch_N\.pt", "checkpoint_epoch_*.pt"),
)
"""What the pages do at length, done briefly; nothing else of a command is changed."""
HERE = (
    (r"192\.168\.1\.20:7000", "{address}"),
    (r"type: opencv", "type: video"),
    (r"index_or_path: \S+", "path: {folder}/camera.mp4\n    loop: true"),
)
"""Where the arm of the pages' robot.yaml is, and what stands for its camera."""
OFFLINE = "--quiet --disable-pip-version-check --no-index --no-deps --no-build-isolation"
MARK = 'import pathlib; pathlib.Path(__file__).with_suffix(".imported").touch()\n'


@dataclass(frozen=True, kw_only=True)
class Desk:
    """A directory of somebody's own, and the environment that is active in it."""

    folder: Path
    environment: Path
    address: str

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        """Runs one command line in bash."""
        paths = (str(self.environment / "bin"), os.environ["PATH"])
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=self.folder,
            env={**kept, "PATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def film_start(self) -> None:
        """Makes what the camera sees: the first picture of a demonstration, with some noise."""
        video = self.folder / "camera.mp4"
        if video.exists():
            return
        (recorded,) = self.folder.glob("datasets/my_arm/videos/**/*episode_000000.mp4")
        source = av.open(str(recorded))
        picture = next(source.decode(video=0)).to_ndarray(format="rgb24").astype(int)
        source.close()
        random = np.random.default_rng(0)
        with av.open(str(video), "w") as file:
            stream = file.add_stream("mpeg4", rate=20)
            stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
            for _ in range(40):
                noisy = np.clip(picture + random.integers(-4, 5, picture.shape), 0, 255)
                frame = av.VideoFrame.from_ndarray(noisy.astype(np.uint8), format="rgb24")
                file.mux(stream.encode(frame))
            file.mux(stream.encode())

    def here(self, code: str) -> str:
        """Returns a file of the pages with the address and the camera of this arm."""
        for text, instead in HERE:
            code = re.sub(text, instead.format(address=self.address, folder=self.folder), code)
        return code

    def follow(self, block: Block, where: str) -> str:
        """Writes a block's file, or runs its commands; returns what they print."""
        if block.file is not None:
            (self.folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / block.file).write_text(self.here(block.code))
            return ""
        said = ""
        for command in block.commands:
            if "robot.yaml" in command:
                self.film_start()
            done = self.run(briefly(command))
            said += done.stdout + done.stderr
            expected = 1 if block.mark == "refused" else 0
            assert done.returncode == expected, f"{where}: {command}\n{done.stdout}{done.stderr}"
            assert "Traceback" not in done.stderr
        return said


def briefly(command: str) -> str:
    """A page's command line with fewer steps, and with what pip needs to do without a network."""
    for long, short in FEWER:
        command = re.sub(long, short, command)
    return re.sub(r"^pip install ", f"python -m pip install {OFFLINE} ", command)


def make_environment(folder: Path) -> Path:
    """A fresh virtual environment that sees this one's packages, with commands of its own."""
    venv.create(folder, symlinks=True, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    places = [path for path in sys.path if path.endswith("site-packages")]
    (site / "flux.pth").write_text(
        "".join(f"import site; site.addsitedir({place!r})\n" for place in places)
    )
    for script in entry_points(group="console_scripts"):
        if script.name in COMMANDS:
            path = folder / "bin" / script.name
            path.write_text(
                f"#!{folder / 'bin' / 'python'}\nimport sys\nfrom {script.module} import "
                f"{script.attr}\nsys.exit({script.attr}())\n"
            )
            path.chmod(0o755)
    return folder


class Controller(socketserver.StreamRequestHandler):
    """The controller of the real arm on the page: obeys at once, and keeps the requests."""

    position: ClassVar[bytes] = np.array([0.1, 0, 0, 1], "<f4").tobytes()
    requests: ClassVar[list[str]] = []
    positions: ClassVar[list[bytes]] = []

    def handle(self) -> None:
        """Answers the requests of one connection."""
        for line in self.rfile:
            request, _, values = line.decode().strip().partition(" ")
            self.requests.append(request)
            if request == "move":
                Controller.position = bytes.fromhex(values)
                self.positions.append(Controller.position)
            self.wfile.write(bytes(4) + self.position if request == "state" else b"ok")


@pytest.fixture(scope="module")
def controller() -> Iterator[str]:
    """The address of the real arm's controller."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Controller) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, controller: str) -> Desk:
    """Somebody's empty directory, with the fresh environment."""
    pytest.importorskip("matplotlib", reason="the pages write a run report")
    base = tmp_path_factory.mktemp("your_own")
    assert not base.resolve().is_relative_to(ROOT)
    desk = Desk(
        folder=base / "desk",
        environment=make_environment(base / "environment"),
        address=controller,
    )
    desk.folder.mkdir()
    return desk


def walk(desk: Desk, page: Path) -> str:
    """Follows a page from top to bottom; returns all that its commands print."""
    blocks = read_blocks(page.read_text(encoding="utf-8"))
    said = "\n".join(desk.follow(block, f"{page.name}:{block.line}") for block in blocks)
    return " ".join(said.split())


@pytest.fixture(scope="module")
def robot_page(desk: Desk) -> str:
    """The page of the robot, followed: what its commands printed."""
    return walk(desk, YOUR_OWN[0])


@pytest.fixture(scope="module")
def data_page(desk: Desk, robot_page: str) -> str:
    """The page of the data, followed after that of the robot: what its commands printed."""
    return walk(desk, YOUR_OWN[1])


@pytest.fixture(scope="module")
def transform_page(desk: Desk, data_page: str) -> str:
    """The page of transforms, followed after both others: what its commands printed."""
    return walk(desk, YOUR_OWN[2])


def test_the_robot_is_installed_driven_and_recorded(desk: Desk, robot_page: str) -> None:
    assert "my-arm · hold · grasp the dot" in robot_page
    done = desk.run("flux-data info datasets/my_arm --json")
    assert json.loads(done.stdout)["cameras"] == ["top_view"]


def test_the_real_arm_moves_to_its_prepare_pose_and_stays_there(
    desk: Desk, robot_page: str
) -> None:
    assert "my-arm: ready to run (none)" in robot_page
    assert "so the run begins at once" in robot_page
    assert "my-arm: prepare pose: reached" in robot_page
    assert "flux: error" not in robot_page
    moves = np.array([np.frombuffer(entry, "<f4") for entry in Controller.positions])
    way = moves[: int(np.flatnonzero(np.abs(moves - (0, 0, 0, 1)).max(axis=1) < 1e-6)[0])]
    assert 5 < len(way) < len(moves)  # more commands followed: those of the episode
    assert np.all(np.diff(way[:, 0]) <= 0) and np.abs(np.diff(way[:, 0])).max() < 0.4 / 20


def test_the_real_driver_runs_in_its_own_environment_with_what_the_file_says(
    desk: Desk, robot_page: str
) -> None:
    python = desk.environment / "bin" / "python"
    settings = yaml.safe_load((desk.folder / "robot.yaml").read_text())
    assert settings["address"] == desk.address
    with DriverProcess.start("my-real-arm", python=python, arguments=settings) as driver:
        driver.connect(["top"])
        _, _, frames = driver.observe(["top"])
        assert frames["top"][0].shape == (64, 64, 3)
        driver.begin(1)
        driver.link.announce("running", session=1)
        assert driver.spec.cameras == ("top",) and driver.failure is None
    assert "hold" in Controller.requests  # the driver was closed while a session ran


def test_the_policy_drives_the_real_arm_after_the_check_and_the_run_is_a_dataset(
    desk: Desk, data_page: str
) -> None:
    done = desk.run("flux-data info datasets/my_runs --json")
    facts = json.loads(done.stdout)
    assert (facts["num_episodes"], facts["tasks"]) == (1, ["grasp the dot"])
    assert facts["cameras"] == ["top"]
    assert facts["robot_type"] == "my-arm"
    for suspicion in ("start_pose", "camera_view", "latency"):
        assert f"ok {suspicion} " in data_page


def test_a_dataset_becomes_a_policy_that_drives_the_simulated_robot(
    desk: Desk, data_page: str
) -> None:
    for name in ("my_arm.html", "my_arm_report.html"):
        assert (desk.folder / name).is_file()
    manifest = Bundle.open(desk.folder / "my_arm.bundle").manifest
    assert (manifest.robots, manifest.cameras) == (("my-arm",), ("top",))
    done = desk.run("flux-runtime run --robot my-arm --bundle my_arm.bundle --episodes 1 --json")
    report = json.loads(done.stdout)
    assert report["ticks"] == 400 and report["commands_out_of_limit"] == 0


def test_the_config_with_published_weights_is_bound(desk: Desk, data_page: str) -> None:
    read = "from flux_train.config.tree import read_train_config as read"
    code = f"{read}; print(read(Path('my_arm_pi05_config.py'), [])[0].inference.spec.name)"
    done = desk.run(f'python -c "from pathlib import Path; {code}"')
    assert done.stdout == "my-arm\n", done.stderr


def test_training_says_that_a_module_beside_the_config_cannot_be_deployed(
    transform_page: str,
) -> None:
    said = transform_page
    assert "flux-export will refuse this run's checkpoint: train_dataloader" in said
    assert "'my_units:DegreesToRadians' is the path of a class, not a registered name" in said
    assert said.count("flux-export will refuse this run's checkpoint") == 2
    assert "'my_units:JointSigns' is the path of a class" in said
    assert "to train without a robot, add --cfg-options inference=none." in said


def test_degrees_are_trained_as_the_robots_radians_and_signs_come_back(
    desk: Desk, transform_page: str
) -> None:
    bundles = [desk.folder / f"{name}.bundle" for name in ("my_arm", "my_degrees")]
    files = [(bundle / "norm_stats.json").read_text() for bundle in bundles]
    plain, turned = (stats_from_json(json.loads(file))["my-arm"] for file in files)
    signs, zeros = np.array([1, -1, -1, 1]), np.array([0.5, 0, 0, 0])
    for name in ("proprio", "action"):
        expected = (plain[name].mean - zeros) / signs
        np.testing.assert_allclose(turned[name].mean, expected, atol=1e-6)
    code = (
        "import sys, numpy as np; from flux_core import Bundle, PolicyIO; "
        "io = PolicyIO.from_bundle(Bundle.open(sys.argv[1], accept_versions=['my-units'])); "
        "print(io.decode(np.ones((1, 4), np.float32), np.zeros(4, np.float32)).tolist()[0])"
    )
    said = [desk.run(f'python -c "{code}" {bundle}') for bundle in bundles]
    here, back = (np.array(json.loads(done.stdout)) for done in said)
    scale, offset = plain["action"].affine("quantile")
    np.testing.assert_allclose(here, offset + scale, atol=1e-5)
    np.testing.assert_allclose(back, offset + scale * signs, atol=1e-5)


def test_the_manifest_says_where_the_transforms_come_from(desk: Desk, transform_page: str) -> None:
    manifest = json.loads((desk.folder / "my_degrees.bundle" / "manifest.json").read_text())
    source = {"distribution": "my-units", "version": "1.0"}
    components = {name: manifest["components"][name] for name in ("DegreesToRadians", "JointSigns")}
    assert components == {"DegreesToRadians": source, "JointSigns": source}


def test_another_version_is_imported_only_when_it_is_accepted(
    desk: Desk, transform_page: str
) -> None:
    module = desk.folder / "my-units" / "my_units.py"
    project = module.with_name("pyproject.toml")
    module.write_text(f"{MARK}{module.read_text()}")
    project.write_text(re.sub(r'version = ".*"', 'version = "1.2"', project.read_text()))
    assert desk.run(briefly("pip install ./my-units")).returncode == 0
    (mark,) = (path.parent for path in desk.environment.glob("lib/*/site-packages/my_units.py"))
    mark /= "my_units.imported"
    command = "flux-runtime run --robot my-arm --bundle my_degrees.bundle --dry-run"
    done = desk.run(command)
    assert done.returncode == 1
    assert "of my-units 1.0 as in the manifest, got 1.2. Install that version, or" in done.stderr
    assert not mark.exists()
    done = desk.run(f"{command} --accept-version my-units")
    assert done.returncode == 0, done.stderr
    assert mark.exists()


def test_without_the_package_the_bundle_is_refused_in_one_line(
    desk: Desk, transform_page: str
) -> None:
    assert desk.run("python -m pip uninstall --quiet --yes my-units").returncode == 0
    # What lies in the current directory is no substitute.
    (desk.folder / "my_units.py").write_text(MARK)
    for command in (
        "flux-runtime check my_degrees.bundle",
        "flux-runtime check my_degrees.bundle --accept-version my-units",
        "flux-runtime run --robot my-arm --bundle my_degrees.bundle",
        "flux-export my_degrees.bundle --out again.bundle",
    ):
        done = desk.run(command)
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert "'DegreesToRadians' has no entry point of its own in flux.components" in line
    assert not (desk.folder / "my_units.imported").exists()
