"""Real recordings: what a bundle that was trained on some episodes says, and how others start."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flux_core.robots import RobotSpec
from flux_data.lerobot.state_action import dimension_names
from flux_data.samples.mixture import DistributedRepeatingDataset
from flux_data.samples.process_inputs import dataset_inputs
from flux_data.samples.windows import ParquetDataset
from flux_runtime.deployment import CameraLook, DeploymentFacts, Observed

from .scenes import camera_summary, ranges, shifted

PREFIX = "observation.images."


@dataclass(frozen=True, kw_only=True)
class Start:
    """How an episode starts."""

    state: NDArray[np.float32]
    images: Mapping[str, NDArray[np.uint8]]

    def observed(self, spec: RobotSpec, light: tuple[float, float, float]) -> Observed:
        """A robot that stands there, under another light."""
        looks = {
            name: CameraLook(
                image=shifted(image, *light),
                num_images=30,
                num_different=29,
                hz=spec.control_hz,
                newest_age_s=0.03,
            )
            for name, image in self.images.items()
        }
        return Observed(state=self.state, cameras=looks, duration_s=1.0, state_hz=spec.control_hz)


def first_of(root: Path, folder: Path, count: int) -> Path:
    """Makes a dataset of the first episodes of a v2.1 dataset, which it links to."""
    (folder / "meta").mkdir(parents=True)
    for name in ("data", "videos"):
        (folder / name).symlink_to(root / name)
    for path in (root / "meta").glob("*.json*"):
        lines = path.read_text().splitlines(keepends=True)
        if path.name.startswith("episodes"):
            lines = [line for line in lines if json.loads(line)["episode_index"] < count]
        (folder / "meta" / path.name).write_text("".join(lines))
    info = json.loads((root / "meta" / "info.json").read_text())
    kept = [json.loads(line) for line in (folder / "meta" / "episodes.jsonl").open()]
    info["total_episodes"] = len(kept)
    info["total_frames"] = sum(entry["length"] for entry in kept)
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    return folder


def _config(root: Path) -> ParquetDataset.Config:
    features = json.loads((root / "meta" / "info.json").read_text())["features"]
    cameras = tuple(key for key in features if key.startswith(PREFIX))
    inputs = dataset_inputs(("observation.state", "actions"), cameras)
    return ParquetDataset.Config(
        data_root_path=str(root),
        transforms=(inputs,),
        action_key="action",
        action_window_size=4,
        window_start_idx=0,
    )


def facts_of(root: Path) -> DeploymentFacts:
    """What training on all of a dataset writes into its checkpoints."""
    config = DistributedRepeatingDataset.Config(
        datasets={"robot": (_config(root),)},
        statistic_keys=("observation.state", "action"),
        name_mappings={},
    )
    summary = config.build().data_summary()["robot"]
    return DeploymentFacts.from_summary(json.loads(json.dumps(summary)))


def starts_of(root: Path, first: int) -> list[Start]:
    """How the episodes of a dataset start, from number `first` on; every second pixel is enough."""
    dataset = _config(root).build()
    cameras = [key.removeprefix(PREFIX) for key in dataset.config.cameras]
    return [
        Start(
            state=dataset.raw_sample(int(index)).state.astype(np.float32),
            images={
                name: picture[::2, ::2]
                for name, picture in zip(cameras, dataset.pictures(int(index)), strict=True)
            },
        )
        for index in dataset.first_samples()[first:]
    ]


def facts_of_starts(starts: Sequence[Start], spec: RobotSpec) -> DeploymentFacts:
    """The same of some starts alone, without decoding whole episodes."""
    states = np.array([start.state for start in starts])
    span = ranges(np.concatenate([states - 0.5, states + 0.5]))
    images = {name: [start.images[name] for start in starts] for name in spec.cameras}
    summary = {
        "fps": spec.control_hz,
        "episodes": len(starts),
        "state": span,
        "start": {"state": ranges(states)},
        "cameras": {name: camera_summary(each) for name, each in images.items()},
    }
    return DeploymentFacts.from_summary(summary)


def spec_of(root: Path) -> RobotSpec:
    """A robot that can do what a dataset recorded."""
    info = json.loads((root / "meta" / "info.json").read_text())
    names = dimension_names(info["features"])["action"]
    cameras = [key.removeprefix(PREFIX) for key in info["features"] if key.startswith(PREFIX)]
    is_plain = [any(word in name for word in ("gripper", "Hand")) for name in names]
    return RobotSpec(
        name="recorded",
        joint_names=names,
        lower=tuple(0.0 if plain else -3.2 for plain in is_plain),
        upper=tuple(1.0 if plain else 3.2 for plain in is_plain),
        max_velocity=(3.0,) * len(names),
        units=tuple("normalized" if plain else "rad" for plain in is_plain),
        cameras=tuple(cameras),
        control_hz=float(info["fps"]),
    )
