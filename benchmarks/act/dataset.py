"""Writes packed demonstrations as a LeRobot v3.0 dataset of pictures, by LeRobot's own writer.

    flux-data pack DATASET --size 96x128
    .venv-act/bin/python benchmarks/act/dataset.py DATASET OUT

The pictures are those that `flux-data pack` has made, to the bit: what flux trains on. They are
stored as PNGs, which take LeRobot less time to read than a video. DATASET is in LeRobot v2.1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from lerobot.datasets.lerobot_dataset import LeRobotDataset

FRAMES = "flux_frames"
VECTORS = ("observation.state", "action")


def main() -> int:
    """Writes the dataset."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", type=Path, metavar="DATASET")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new directory")
    parser.add_argument("--episodes", type=int, help="only the first ones")
    options = parser.parse_args()
    info = json.loads((options.dataset / "meta" / "info.json").read_text())
    packed = packed_frames(options.dataset)
    with (options.dataset / "meta" / "tasks.jsonl").open() as lines:
        tasks = {task["task_index"]: task["task"] for task in map(json.loads, lines)}
    dataset: Any = LeRobotDataset.create(
        repo_id=f"local/{options.out.name}",
        fps=info["fps"],
        features=features(info, packed),
        root=options.out,
        robot_type=info["robot_type"],
        use_videos=False,
    )
    for episode in range(options.episodes or info["total_episodes"]):
        add_episode(dataset, options.dataset, info, episode, packed, tasks)
    dataset.finalize()
    return 0


def packed_frames(dataset: Path) -> Path:
    """Returns the folder of the dataset's only cache of frames."""
    folders = sorted((dataset / FRAMES).glob("*_raw"))
    if len(folders) != 1:
        raise SystemExit(
            f"{dataset / FRAMES}: expected the frames of one size, found {len(folders)}. Run "
            "`flux-data pack DATASET --size HEIGHTxWIDTH`"
        )
    return folders[0]


def features(info: dict[str, Any], packed: Path) -> dict[str, dict[str, Any]]:
    """Returns the columns: the joints as they are, and the packed pictures."""
    columns = info["features"]
    found = {name: columns[name] | {"shape": tuple(columns[name]["shape"])} for name in VECTORS}
    for folder in sorted(path for path in packed.iterdir() if path.is_dir()):
        _, channels, height, width = np.load(next(folder.iterdir()), mmap_mode="r").shape
        found[folder.name] = {
            "dtype": "image",
            "shape": (height, width, channels),
            "names": ["height", "width", "channels"],
        }
    return found


def add_episode(
    dataset: Any,
    source: Path,
    info: dict[str, Any],
    episode: int,
    packed: Path,
    tasks: dict[int, str],
) -> None:
    """Adds an episode of `source`."""
    chunk = episode // info["chunks_size"]
    path = source / info["data_path"].format(episode_chunk=chunk, episode_index=episode)
    rows = parquet.read_table(path)
    vectors = {name: np.stack(rows[name].to_numpy()) for name in VECTORS}
    pictures = {
        folder.name: np.load(folder / f"episode_{episode:06d}.npy", mmap_mode="r")
        for folder in packed.iterdir()
        if folder.is_dir()
    }
    for row, task in enumerate(rows["task_index"].to_pylist()):
        frame = {name: vector[row].astype(np.float32) for name, vector in vectors.items()}
        frame |= {key: frames[row].transpose(1, 2, 0) for key, frames in pictures.items()}
        dataset.add_frame(frame | {"task": tasks[task]})
    dataset.save_episode()


if __name__ == "__main__":
    sys.exit(main())
