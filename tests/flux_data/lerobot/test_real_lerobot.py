"""Real LeRobot opens what we write and convert: 0.3 reads v2.1, 0.4 reads v3.0.

Each needs an environment of its own (its torch is another), and the system's ffmpeg:

    bash scripts/environments/lerobot.sh 0.3
    bash scripts/environments/lerobot.sh 0.4
    FLUX_LEROBOT_03=.venv-lerobot-0.3/bin/python FLUX_LEROBOT_04=.venv-lerobot-0.4/bin/python \
        python -m pytest tests/flux_data/lerobot/test_real_lerobot.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_data.convert.lerobot import convert
from flux_data.lerobot.dataset import open_lerobot
from flux_data.lerobot.writer import WriterV21, WriterV30

from ..record.made_episodes import LENGTH, add_episode, brightness, growing
from .test_lerobot_writer import write

PROBE = """
import json, sys
import torch
# torchvision's wheel wants CUDA operators to exist; nothing here calls them.
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset(
    "local/written",
    root=sys.argv[1],
    delta_timestamps={"action": [i / 50 for i in range(3)]},
    video_backend="torchcodec",
)
rows = []
for index in range(0, len(dataset), int(sys.argv[2])):
    sample = dataset[index]
    rows.append({
        "state": sample["observation.state"].tolist(),
        "actions": sample["action"].tolist(),
        "is_pad": sample["action_is_pad"].tolist(),
        "task": sample["task"],
        "image_mean": sample["observation.images.cam_high"].mean().item(),
    })
print(json.dumps({"episodes": dataset.num_episodes, "rows": rows}))
"""


PYTHON_OF = {"v2.1": "FLUX_LEROBOT_03", "v3.0": "FLUX_LEROBOT_04"}


RECORDED_PROBE = """
import json, sys
import torch
library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
from lerobot.datasets.lerobot_dataset import LeRobotDataset
dataset = LeRobotDataset("local/recorded", root=sys.argv[1], video_backend="torchcodec")
rows = []
for index in range(0, len(dataset), int(sys.argv[2])):
    sample = dataset[index]
    rows.append({
        "state": sample["observation.state"].tolist(),
        "base": sample["observation.base"].tolist(),
        "task": sample["task"],
        "episode": int(sample["episode_index"]),
        "image": 255 * sample["observation.images.top"].mean().item(),
        "depth": sample["observation.images.top_depth"].double().mean().item(),
    })
print(json.dumps({"episodes": dataset.num_episodes, "rows": rows}))
"""


def read_with_lerobot(root: Path, version: str, every: int, probe: str = PROBE) -> dict[str, Any]:
    """Returns what that version of LeRobot reads from the samples."""
    python = os.environ.get(PYTHON_OF[version], "")
    if not python:
        pytest.skip(f"{PYTHON_OF[version]} names no python with LeRobot for {version}")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [python, "-c", probe, str(root), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def assert_lerobot_reads_the_same(root: Path, version: str, every: int = 1) -> None:
    report, source = read_with_lerobot(root, version, every), open_lerobot(root)
    columns = source.columns(["observation.state", "action", "task_index"])
    assert report["episodes"] == source.num_episodes
    sampled = range(0, source.num_frames, every)
    for row, theirs in zip(sampled, report["rows"], strict=True):
        position, _ = source.locate(row)
        last = int(source.episode_starts[position + 1]) - 1
        rows = np.arange(row, row + 3)
        np.testing.assert_array_equal(
            np.float32(theirs["state"]), columns["observation.state"][row]
        )
        np.testing.assert_array_equal(
            np.float32(theirs["actions"]), columns["action"][np.minimum(rows, last)]
        )
        assert theirs["is_pad"] == (rows > last).tolist()
        assert theirs["task"] == source.tasks[int(columns["task_index"][row])]
        assert 0.2 < theirs["image_mean"] < 0.8


@pytest.mark.parametrize("kind", [WriterV21, WriterV30])
def test_lerobot_reads_every_sample_of_a_dataset_we_wrote(
    tmp_path: Path, kind: type[WriterV21 | WriterV30]
) -> None:
    assert_lerobot_reads_the_same(write(tmp_path / "set", kind), kind.version)


@pytest.mark.parametrize(("name", "version"), [("v30c", "v2.1"), ("v21", "v3.0")])
def test_lerobot_reads_a_dataset_we_converted(
    shared_data: Path, tmp_path: Path, name: str, version: str
) -> None:
    convert([shared_data / "lerobot" / name], tmp_path / "set", version)
    assert_lerobot_reads_the_same(tmp_path / "set", version, every=7)


def test_lerobot_reads_a_mixture_of_both_versions(shared_data: Path, tmp_path: Path) -> None:
    roots = [shared_data / "lerobot" / name for name in ("v21", "v30c")]
    convert(roots, tmp_path / "set", "v3.0")
    assert_lerobot_reads_the_same(tmp_path / "set", "v3.0", every=7)


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
def test_lerobot_reads_a_recording_that_was_continued(tmp_path: Path, version: str) -> None:
    """With a depth camera, a mobile base, and outcomes beside the lengths of the episodes."""
    for numbers in ((0, 1), (2,)):
        with growing(tmp_path / "set", version) as dataset:
            for number in numbers:
                add_episode(dataset, number)
    report = read_with_lerobot(tmp_path / "set", version, 1, RECORDED_PROBE)
    assert report["episodes"] == 3
    places = [(number, row) for number in range(3) for row in range(LENGTH)]
    for (number, row), theirs in zip(places, report["rows"], strict=True):
        assert theirs["state"] == theirs["base"] == [number, row]
        assert (theirs["episode"], theirs["task"]) == (number, f"task {number % 2}")
        assert abs(theirs["image"] - brightness(number, row)) < 3
        assert theirs["depth"] == pytest.approx(100 * brightness(number, row), rel=1e-3)
