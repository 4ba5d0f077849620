"""A dataset's episodes as a robot on simulated time: `flux-runtime run --robot dataset:DIR`.

The states and images are the recorded ones. Each command advances the time by one control step and
changes nothing else, so a policy can be tried on real recordings without hardware: what it predicts
is compared with the actions that were recorded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.config import bind
from flux_core.errors import DataError, RobotError
from flux_core.robots import RobotSpec, robot_spec, robot_spec_names, variants_of
from flux_core.types import Observation

from .lerobot.dataset import open_lerobot
from .lerobot.recorder import video_key
from .lerobot.state_action import ACTION, STATE, joined, usual_columns
from .samples.process_inputs import dataset_inputs
from .samples.raw_sample import RawSample
from .samples.windows import DatasetPart, ParquetDataset

FPS_TOLERANCE = 0.01
"""29.97 counts as 30."""
FILM_WIDTH = 320
_CAMERA_PREFIX = "observation.images."
_MARGIN_SHARE, _LEAST_MARGIN = 0.05, 1e-3
_SPEED_SHARE = 1.5
_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


class DatasetRobot:
    """Plays a dataset's episodes, one after the other; see `flux_runtime.robots.SimulatedRobot`.

    A recording knows neither stages nor success, so `stages` is empty.

    Attributes:
        spec: the robot of the recordings.
        num_episodes: how many there are.
        is_over: whether the episode's last frame has been commanded.
        episode_index: of the episode that is played.
    """

    success_stage = end_state = ""

    def __init__(
        self,
        *,
        directory: str,
        spec: Mapping[str, Any] | None = None,
        cameras: Mapping[str, str | None] | None = None,
        training: Mapping[str, Any] | None = None,
        episodes: Sequence[int] | None = None,
    ) -> None:
        """Reads the dataset's metadata.

        Args:
            directory: a LeRobot directory.
            spec: the fields of the RobotSpec that a bundle carries; None to derive one.
            cameras: the bundle's cameras, and the dataset's columns of them; None for the column
                of that name.
            training: the section of the config with which a policy was trained on such data, which
                names the columns of the state and of the actions; None for the usual ones.
            episodes: the numbers of the episodes to play; None for all.

        Raises:
            DataError: the dataset cannot be read, or lacks a column, a camera or an episode.
            RobotError: the spec is not one of a robot with these recordings.
        """
        source = open_lerobot(directory)
        columns = {
            name: column or _camera_column(source.camera_keys, name)
            for name, column in (cameras or {}).items()
        }
        if spec is None and not columns:
            columns = {key.removeprefix(_CAMERA_PREFIX): key for key in source.camera_keys}
        self._columns = columns
        config = _config(directory, source.info["features"], tuple(columns.values()), training)
        self._part = DatasetPart(source, config, ())
        self._positions = _positions(source.episode_indices, episodes, directory)
        if spec is None:
            self.spec = _derived(self._part, tuple(columns))
        else:
            self.spec = bind(RobotSpec, dict(spec), "inference.robot")
            _check(self.spec, self._part)
        self.num_episodes = len(self._positions)
        self._next = 0
        self._begin(self._positions[0])

    @property
    def task(self) -> str:
        """The task of the present frame."""
        index = int(np.ravel(self._values["task_index"][self._frame])[0])
        return self._part.source.tasks.get(index, "")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks of all episodes."""
        return tuple(self._part.source.tasks.values())

    @property
    def longest_episode(self) -> int:
        """Control steps of the longest episode that is played."""
        frames = int(max(self._part.source.lengths[position] for position in self._positions))
        return int(np.ceil(frames * self.spec.control_hz / self._part.source.fps))

    @property
    def episode_index(self) -> int:
        """The number of the episode in the dataset."""
        return int(self._part.source.episode_indices[self._position])

    @property
    def frame(self) -> int:
        """The present frame of the episode."""
        return self._frame

    @property
    def is_over(self) -> bool:
        """Whether the episode's last frame has been commanded."""
        return self._time_s(self._step) > self._times_s[-1] + 0.5 / self._part.source.fps

    def connect(self) -> None:
        """Begins with the first episode; `reset` begins with it, too."""
        self._next = 0
        self._begin(self._positions[0])

    def reset(self, seed: int) -> None:
        """Starts the next episode, and the first one after the last; the seed has no effect."""
        self._begin(self._positions[self._next % self.num_episodes])
        self._next += 1

    def state(self) -> NDArray[np.float32]:
        """Returns the recorded state, (state_dim,) float32."""
        state = joined(self._values, self._part.config.state_columns, self._frame)
        return np.ravel(state).astype(np.float32)

    def observe(self, prompt: str, cameras: Sequence[str]) -> Observation:
        """Returns the recorded state, and the frames of some cameras in their recorded size."""
        return Observation(
            images={name: self._picture(name) for name in cameras},
            state=self.state(),
            prompt=prompt,
            timestamp_s=self._time_s(self._step),
        )

    def command(self, action: NDArray[np.float32]) -> None:
        """Advances by one control step."""
        self._step += 1
        self._frame = self._frame_of(self._step)

    def stages(self) -> Mapping[str, bool]:
        """Returns none: a recording does not know whether its task is done."""
        return {}

    def render(self, cameras: Sequence[str]) -> Mapping[str, NDArray[np.uint8]]:
        """Returns the frames in one size, at most `FILM_WIDTH` wide, for films."""
        frames = [self._picture(name) for name in cameras]
        height, width = frames[0].shape[:2] if frames else (1, 1)
        stride = max(1, -(-width // FILM_WIDTH))
        size = max(2, height // stride // 2 * 2), max(2, width // stride // 2 * 2)
        return {name: _sampled(frame, size) for name, frame in zip(cameras, frames, strict=True)}

    def recorded_actions(self, count: int) -> NDArray[np.float32]:
        """Returns the recorded actions of the coming `count` control steps, the present one first;
        fewer at the end of the episode. (at most count, action_dim) float32."""
        length = len(self._times_s)
        shift = self._part.config.window_start_idx
        rows = [self._frame_of(step) for step in range(self._step, self._step + count)]
        lasts = self._times_s[-1] + 0.5 / self._part.source.fps
        kept = [
            row + shift
            for step, row in enumerate(rows, self._step)
            if row + shift < length and self._time_s(step) <= lasts
        ]
        actions = joined(self._values, self._part.config.action_columns, np.array(kept, np.int64))
        return actions.reshape(len(kept), self._part.action_dim).astype(np.float32)

    def close(self) -> None:
        """Does nothing: files are closed after each read."""

    def _begin(self, position: int) -> None:
        self._position = position
        self._values = self._part.episode(position)
        times_s = np.ravel(self._values["timestamp"]).astype(np.float64)
        self._times_s = times_s - times_s[0]
        self._step = self._frame = 0

    def _time_s(self, step: int) -> float:
        return step / self.spec.control_hz

    def _frame_of(self, step: int) -> int:
        """Returns the newest frame at a control step."""
        latest = self._time_s(step) + 0.5 / self._part.source.fps
        return max(0, int(np.searchsorted(self._times_s, latest, side="right")) - 1)

    def _picture(self, camera: str) -> NDArray[np.uint8]:
        sample = RawSample(
            position=self._position,
            episode_index=self.episode_index,
            frame=self._frame,
            times_s=np.ravel(self._values["timestamp"]).astype(np.float64),
            columns={"timestamp": np.ravel(self._values["timestamp"])[self._frame]},
            state=self.state(),
            actions=np.zeros((0, 0), np.float32),
            action_masks=np.zeros(0, np.bool_),
            task=self.task,
        )
        return self._part.frames.picture(sample, self._columns[camera])


def _config(
    directory: str,
    features: Mapping[str, Any],
    cameras: tuple[str, ...],
    training: Mapping[str, Any] | None,
) -> ParquetDataset.Config:
    """Returns which columns to read: those of the training, or the usual ones."""
    if training is not None:
        first, *_ = training["transforms"]
        inputs = {**first, "video_keys": list(cameras)}
        section = {**training, "data_root_path": directory, "transforms": [inputs]}
        return bind(ParquetDataset.Config, section | {"frame_cache": None}, "train_dataloader")
    usual = usual_columns(features)
    states = usual.get(STATE, (STATE,))
    return ParquetDataset.Config(
        data_root_path=directory,
        transforms=(dataset_inputs(("states",), cameras),),
        # Recordings without actions: the next states are the actions.
        action_key=usual.get(ACTION, states),
        state_key=states,
        window_start_idx=0 if ACTION in usual else 1,
    )


def _camera_column(available: Sequence[str], camera: str) -> str:
    """Returns a camera's column: LeRobot's name of it, or its own name."""
    return camera if camera in available else video_key(camera)


def _positions(
    known: NDArray[np.int64], wanted: Sequence[int] | None, directory: str
) -> tuple[int, ...]:
    """Returns the positions of the episodes with some numbers."""
    places = {int(index): place for place, index in enumerate(known)}
    if wanted is None:
        return tuple(range(len(known)))
    for index in wanted:
        if index not in places:
            raise DataError(
                f"{directory}: episodes: expected numbers from {min(places)} to {max(places)}, "
                f"got {index!r}"
            )
    if not wanted:
        raise DataError(f"{directory}: episodes: expected at least one number, got none")
    return tuple(places[index] for index in wanted)


def _check(spec: RobotSpec, part: DatasetPart) -> None:
    """Refuses recordings of another robot than the one of `spec`.

    Names that the two do not share say nothing; shared ones must be in one order.
    """
    root = part.source.root
    states = spec.state_names if spec.is_commanded_by_differences else spec.joint_names
    for what, expected, dim, names in (
        ("states", states, part.state_dim, part.state_names),
        ("actions", spec.joint_names, part.action_dim, part.action_names),
    ):
        if dim != len(expected):
            raise RobotError(
                f"{spec.name}: {root}: expected {what} of {len(expected)} dimensions, got {dim}. "
                f"Use recordings of the robot that the bundle was trained for"
            )
        for place, (name, found) in enumerate(zip(expected, names, strict=True)):
            if name != found and names.count(name) == 1:
                raise RobotError(
                    f"{spec.name}: {root}: {what}: expected {name} in dimension {place}, got "
                    f"{found}. The dimensions have the order of the robot's joints"
                )


def _derived(part: DatasetPart, cameras: tuple[str, ...]) -> RobotSpec:
    """Returns a description for recordings whose robot nobody describes.

    The ranges and speeds are the recorded ones and a margin, and units are not known.
    """
    source, joints = part.source, part.action_names
    name = _NAME.sub("_", str(source.info.get("robot_type") or "")).strip("_.-") or "dataset"
    if name in robot_spec_names() and not variants_of(name):
        known = robot_spec(name)
        if known.joint_names == joints and _is_near(known.control_hz, source.fps):
            return replace(known, cameras=cameras)
    actions, states = _recorded(part)
    are_alike = part.state_dim == part.action_dim
    both = np.concatenate([actions, states]) if are_alike else actions
    margin = np.maximum(_MARGIN_SHARE * np.ptp(both, axis=0), _LEAST_MARGIN)
    lower, upper = both.min(axis=0) - margin, both.max(axis=0) + margin
    fields: dict[str, Any] = {}
    if not are_alike:
        fields = {
            "rest_command": np.clip(0.0, lower, upper).tolist(),
            "state_names": part.state_names,
            "state_units": ("normalized",) * part.state_dim,
        }
    return RobotSpec(
        name=name,
        joint_names=joints,
        lower=tuple(lower.tolist()),
        upper=tuple(upper.tolist()),
        max_velocity=tuple((_fastest(part) + 2 * margin * source.fps).tolist()),
        units=("normalized",) * part.action_dim,
        cameras=cameras,
        control_hz=source.fps,
        **fields,
    )


def _recorded(part: DatasetPart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns all actions and all states."""
    positions = range(part.source.num_episodes)
    actions = np.concatenate([part.actions(position) for position in positions])
    states = np.concatenate(
        [joined(part.episode(position), part.config.state_columns) for position in positions]
    )
    return actions.astype(np.float64), states.astype(np.float64)


def _fastest(part: DatasetPart) -> NDArray[np.float64]:
    """Returns each joint's largest change of an action per second, and half of it more."""
    fastest = np.zeros(part.action_dim)
    for position in range(part.source.num_episodes):
        steps = np.abs(np.diff(part.actions(position).astype(np.float64), axis=0))
        fastest = np.maximum(fastest, steps.max(axis=0, initial=0.0))
    return _SPEED_SHARE * fastest * part.source.fps


def _is_near(hz: float, fps: float) -> bool:
    return abs(hz - fps) <= FPS_TOLERANCE * fps


def _sampled(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    rows, columns = (
        np.arange(wanted) * given // wanted
        for wanted, given in zip(size, frame.shape[:2], strict=True)
    )
    return np.ascontiguousarray(frame[rows][:, columns])
