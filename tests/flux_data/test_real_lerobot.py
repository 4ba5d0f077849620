"""Real LeRobot opens what we write. It needs an environment of its own (its torch is another):

    python -m venv lerobot03 && lerobot03/bin/pip install torch==2.13.0
    lerobot03/bin/pip install --no-deps lerobot==0.3.3 torchvision==0.28.0
    lerobot03/bin/pip install "datasets<=3.6.0" "huggingface_hub<1" "gymnasium<1.0" "av>=15,<16" \
        "numpy<2.3" draccus==0.10.0 einops jsonlines packaging pandas pyarrow safetensors pillow \
        imageio termcolor deepdiff torchcodec==0.13.0 accelerate opencv-python-headless pyserial
    FLUX_LEROBOT_03=lerobot03/bin/python python -m pytest tests/flux_data/test_real_lerobot.py
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flux_data.lerobot import open_lerobot

from .test_lerobot_writer import LENGTHS
from .test_lerobot_writer import written as written  # a fixture

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
for index in range(len(dataset)):
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


@pytest.fixture(scope="module")
def lerobot_python() -> str:
    python = os.environ.get("FLUX_LEROBOT_03", "")
    if not python:
        pytest.skip("FLUX_LEROBOT_03 names no python with lerobot 0.3.3")
    return python


def test_lerobot_reads_every_sample_of_a_dataset_we_wrote(
    lerobot_python: str, written: Path
) -> None:
    command = [lerobot_python, "-c", PROBE, str(written)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout.splitlines()[-1])
    source = open_lerobot(written)
    columns = source.columns(["observation.state", "action"])
    assert report["episodes"] == len(LENGTHS) and len(report["rows"]) == source.num_frames
    for row, theirs in enumerate(report["rows"]):
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
        assert theirs["task"] == "stir" and 0.2 < theirs["image_mean"] < 0.8
