"""Measures what it costs to record a run: for its replay, and as a LeRobot dataset.

    python benchmarks/recording.py --seconds 20
    python benchmarks/recording.py --seconds 20 --dataset v3.0

The first hands three camera frames of 640 x 480 with the noise of a sensor, three times a second,
and the ticks of a 14-joint robot to the recorder, as the inference thread and the main thread of a
run do. Prints how long they were kept (the longest hand-over of a chunk), the share of a CPU that
the writing thread took, and what was written.

The second drives an arm in a driver's process, at 50 Hz with the shipped policy, without and then
with `--record-dataset`. Its camera gives as many pixels as three of 640 x 480, at 30 Hz and with
the noise of a sensor. Prints how late commands left, how old pictures were, and the share of a CPU
that the whole run took.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import robot_spec
from flux_core.types import Observation
from flux_runtime import _core, read_recording
from flux_runtime.bench import hardware
from flux_runtime.control.episode_log import ChunkInputs
from flux_runtime.control.session import shipped_policy
from flux_runtime.run.replay_recording import ReplayRecording

CAMERAS, HEIGHT, WIDTH, JOINTS = 3, 480, 640, 14
CAMERA_HZ = 30.0
START_POSE = (0.0, -0.96, 1.16, 0.0, -0.3, 0.0)
PROGRAM = "import sys; from flux_runtime.cli import main; sys.exit(main(sys.argv[1:]))"
DRAIN_S = 0.04
SENSOR_NOISE = 2.0


def main() -> int:
    """Measures, prints and writes the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of recording (default: 20)")
    parser.add_argument("--chunks-per-s", type=float, default=3.0, help="(default: 3)")
    parser.add_argument("--hz", type=float, default=50.0, help="commands per second (default: 50)")
    parser.add_argument(
        "--dataset", choices=("v2.1", "v3.0"), help="record a dataset of this version instead"
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    if options.dataset is None:
        figures = measure(options.seconds, options.chunks_per_s, options.hz)
    else:
        figures = measure_dataset(options.seconds, options.dataset)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):44}{value:.4g}")
    if options.out:
        options.out.write_text(json.dumps({"hardware": hardware(), **figures}, indent=1) + "\n")
    return int(figures["dropped"] > 0)


def measure(seconds: float, chunks_per_s: float, hz: float) -> dict[str, float]:
    """Records for some time at the rates of a run."""
    frames = made_frames()
    dtype = tick_dtype()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "episode_000000.replay"
        recording = ReplayRecording(path, {"clock": "monotonic"}, is_realtime=True)
        begin, cpu = time.monotonic(), time.process_time()
        took: list[float] = []
        mine = 0.0
        chunks = ticks = 0
        while (now := time.monotonic() - begin) < seconds:
            own = time.thread_time()
            count = int(now * hz) - ticks
            recording.add_ticks(np.zeros(count, dtype))
            ticks += count
            if now * chunks_per_s >= chunks:
                inputs = chunk(frames, chunks)
                before = time.perf_counter()
                recording.add_chunk(inputs)
                took.append(time.perf_counter() - before)
                chunks += 1
            mine += time.thread_time() - own
            time.sleep(DRAIN_S)
        recording.finish({"outcome": "finished", "stopped_by": None, "reason": None})
        size = path.stat().st_size
        dropped = sum(recording.dropped.values())
        cpu = time.process_time() - cpu - mine
    return {
        "chunks": chunks,
        "longest_hand_over_ms": 1e3 * max(took),
        "median_hand_over_ms": 1e3 * float(np.median(took)),
        "share_of_a_cpu": cpu / seconds,
        "frames_mb_per_s": frames[0].nbytes * CAMERAS * chunks / seconds / 1e6,
        "written_mb_per_s": size / seconds / 1e6,
        "bytes_per_tick": dtype.itemsize,
        "dropped": dropped,
    }


class SyntheticArm:
    """Stands in its start pose, and shows one large noisy picture after the other."""

    def __init__(self) -> None:
        spec = robot_spec("aloha-sim")
        self.spec = replace(spec, max_following_error=(100.0,) * spec.state_dim)
        self._position = np.array(2 * (*START_POSE, 1.0), np.float32)
        self._frames = [np.concatenate([frame] * CAMERAS, axis=1) for frame in made_frames()]
        self._number = 0
        self._next_s = 0.0

    def connect(self) -> None:
        """Does nothing."""

    def read_state(self) -> tuple[NDArray[np.float32], float]:
        """Returns the start pose, from which the policy begins again and again."""
        return self._position, time.monotonic()

    def read_frames(self, cameras: Sequence[str]) -> dict[str, tuple[NDArray[np.uint8], float]]:
        """Waits for the next picture, as a camera does."""
        time.sleep(max(0.0, self._next_s - time.monotonic()))
        now = time.monotonic()
        self._next_s = max(self._next_s, now - 1 / CAMERA_HZ) + 1 / CAMERA_HZ
        self._number += 1
        image = self._frames[self._number % len(self._frames)]
        return dict.fromkeys(cameras, (image, now))

    def send(self, command: NDArray[np.float32], time_s: float) -> None:
        """Does nothing."""

    def stop(self, category: int) -> None:
        """Stands already."""

    def close(self) -> None:
        """Does nothing."""


def measure_dataset(seconds: float, version: str) -> dict[str, float]:
    """Drives the arm without and with a recording."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = bundle_without_facts(folder / "bundle")
        for kind in ("without", "with"):
            options: list[str] = []
            if kind == "with":
                options = ["--record-dataset", str(folder / "set"), "--to", version]
            report, cpu_s = drive_arm(seconds, bundle, folder / kind, options)
            arrays = read_recording(folder / kind / "episode_000000.npz").arrays
            late = 1e3 * np.asarray(arrays["lateness_s"], np.float64)
            for label, value in percentiles(late).items():
                figures[f"lateness_{label}_ms_{kind}"] = value
            ages = 1e3 * np.asarray(arrays["frame_age_s"][:, 0], np.float64)
            figures[f"picture_age_p99_ms_{kind}"] = float(np.nanpercentile(ages, 99))
            figures[f"cpu_s_per_s_{kind}"] = cpu_s / seconds
            figures[f"commands_{kind}"] = len(late)
        told = report["dataset_recording"]
        figures["rows"], figures["repeated"] = told["rows"], told["repeated"]
        figures["dropped"] = sum(told["dropped"].values())
        size = sum(path.stat().st_size for path in (folder / "set").rglob("*") if path.is_file())
        figures["written_mb_per_s"] = size / seconds / 1e6
    return figures


def bundle_without_facts(folder: Path) -> Path:
    """Copies the shipped policy without what it says of its data: no deployment check would take
    this arm for the robot of the training."""
    shutil.copytree(shipped_policy("aloha-sim"), folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["data_summary"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def drive_arm(
    seconds: float, bundle: Path, record: Path, options: Sequence[str]
) -> tuple[dict[str, Any], float]:
    """Runs one episode; returns its report and the CPU time of all its processes."""
    command = [
        *(sys.executable, "-c", PROGRAM, "run", "--robot", "recording:SyntheticArm"),
        *("--bundle", str(bundle), "--mode", "async", "--episodes", "1"),
        *("--max-steps", str(round(seconds * 50)), "--record", str(record), "--json", *options),
    ]
    here = str(Path(__file__).parent)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": here}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return json.loads(done.stdout.splitlines()[-1]), cpu_s


def percentiles(values: NDArray[np.float64]) -> dict[str, float]:
    """Returns p50, p99 and the largest."""
    return {
        "p50": float(np.percentile(values, 50)),
        "p99": float(np.percentile(values, 99)),
        "max": float(values.max()),
    }


def made_frames() -> list[NDArray[np.uint8]]:
    """Returns pictures of smooth surfaces and edges, as a sensor sees them."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    frames: list[NDArray[np.uint8]] = []
    for index in range(4):
        surface = 120 + 60 * np.sin(rows / 90 + index) + 40 * np.cos(columns / 70)
        surface += 50.0 * ((rows // 60 + columns // 80 + index) % 2)
        noise = random.normal(0, SENSOR_NOISE, (HEIGHT, WIDTH, 3))
        frames.append(np.clip(surface[..., None] + noise, 0, 255).astype(np.uint8))
    return frames


def chunk(frames: list[NDArray[np.uint8]], index: int) -> ChunkInputs:
    """Returns what one inference hands over; the arrays are new, as in a run."""
    images = {f"cam_{i}": frames[(index + i) % len(frames)].copy() for i in range(CAMERAS)}
    state = np.zeros(JOINTS, np.float32)
    encoded = {"images": np.zeros((1, CAMERAS, 224, 224, 3), np.float32)}
    return ChunkInputs(
        request={"index": index, "ticket": index},
        observation=Observation(images=images, state=state, prompt="measure", timestamp_s=0.0),
        encoded=encoded,
        base=state,
        noise=np.zeros((50, 32), np.float32),
    )


def tick_dtype() -> np.dtype[np.void]:
    """Returns the record of a tick of this robot."""
    limits = _core.SafetyLimits(
        lower=[-1.0] * JOINTS, upper=[1.0] * JOINTS, max_velocity=[1.0] * JOINTS
    )
    decoder = _core.ActionDecoder(
        scale=np.ones(JOINTS, np.float32),
        offset=np.zeros(JOINTS, np.float32),
        relative_mask=np.zeros(JOINTS, np.bool_),
    )
    replay = _core.SessionReplay(
        settings=_core.RealtimeSettings(control_hz=50.0, execution_horizon=1, mode="sync"),
        policy=None,
        decoder=decoder,
        limits=limits,
        state_dim=JOINTS,
        num_cameras=CAMERAS,
    )
    return replay.tick_dtype


if __name__ == "__main__":
    sys.exit(main())
