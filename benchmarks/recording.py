"""Measures what it costs to record a run for its replay.

    python benchmarks/recording.py --seconds 20

Hands three camera frames of 640 x 480 with the noise of a sensor, three times a second, and the
ticks of a 14-joint robot to the recorder, as the inference thread and the main thread of a run do.
Prints how long they were kept (the longest hand-over of a chunk), the share of a CPU that the
writing thread took, and what was written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core.types import Observation
from flux_runtime import _core
from flux_runtime.bench import hardware
from flux_runtime.control.episode_log import ChunkInputs
from flux_runtime.run.replay_recording import ReplayRecording

CAMERAS, HEIGHT, WIDTH, JOINTS = 3, 480, 640, 14
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
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    figures = measure(options.seconds, options.chunks_per_s, options.hz)
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):28}{value:.4g}")
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
