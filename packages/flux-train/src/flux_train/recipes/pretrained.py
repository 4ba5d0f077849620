"""Datasets and robots of policies that start from openpi's weights, or from NVIDIA's GR00T-N1.5.

Images, prompts and normalisation are as in openpi, and the same in training and on the robot:

            states and actions    prompt                          tokens
    pi0     mean and deviation    the task                        48
    pi0.5   quantiles             the task and the state's bins   200
            quantiles             the task                        48

GR00T is trained as in FluxVLA: mean and deviation, and a prompt of all images and the task, up to
300 tokens a camera. Images are prepared as in LeRobot, for a vision tower of -1 to 1 (FluxVLA's
range is another one).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Literal

from .columns import Columns, Section

Policy = Literal["pi0", "pi05", "gr00t"]

IMAGE_SIZE = {"height": 224, "width": 224}
NORM_TYPES = {"pi0": "mean_std", "pi05": "quantile", "gr00t": "mean_std"}
# openpi's max_token_len. The prefix's padding changes no action, but costs as much as its text.
TASK_LENGTH, TASK_AND_STATE_LENGTH = 48, 200
LENGTH_PER_CAMERA = 300
GR00T_DIMS = {"state_dim": 64, "action_dim": 32}
"""What states and actions are padded to, so that NVIDIA's weights fit any robot."""
EMBODIMENTS: Mapping[str, int] = {"libero": 2, "ur3": 2, "aloha": 0}
"""Robot -> the embodiment of GR00T that FluxVLA trains; any other robot is a new one."""


def dataset(
    policy: Policy,
    *,
    data_root_path: str | list[str],
    tokenizer_path: str,
    cameras: Sequence[str],
    action_horizon: int,
    units: Sequence[Section] = (),
    state_in_prompt: bool = True,
    num_padding_cameras: int = 0,
    columns: Columns | None = None,
    robot: str = "",
    embodiment: int | str | None = None,
    keys: Section | None = None,
    **windows: Any,
) -> Section:
    """One robot's LeRobot directories.

    Args:
        policy: 'pi0', 'pi05' or 'gr00t', which decides prompt and normalisation.
        data_root_path: one directory or several.
        tokenizer_path: a file or folder with the tokenizer, PaliGemma's or Qwen's.
        cameras: in the network's order: base, left wrist, right wrist.
        action_horizon: steps of a chunk.
        units: the transforms before the normalisation, the same as on the robot.
        state_in_prompt: whether pi0.5's prompt has the state.
        num_padding_cameras: black cameras with mask False, for robots with fewer than others.
        columns: the dataset's names of its state and cameras; default: LeRobot's names.
        robot: whose it is; decides GR00T's embodiment if `embodiment` does not.
        embodiment: of GR00T: a number, or a tag of `flux_core.robots.EMBODIMENTS`.
        keys: GR00T's rules per key, `dict(state_keys=[...], action_keys=[...])`.
        windows: other settings of `ParquetDataset`.
    """
    inputs = (columns or Columns()).inputs(cameras, num_padding_cameras=num_padding_cameras)
    if policy == "gr00t":
        known = EMBODIMENTS.get(robot, "new_embodiment")
        inputs["embodiment_id"] = known if embodiment is None else embodiment
    tokenizer = dict(type="PretrainedTokenizer", model_path=tokenizer_path)
    *before, normalize_images = observation_transforms(
        policy,
        tokenizer=tokenizer,
        num_cameras=len(cameras) + num_padding_cameras,
        units=units,
        state_in_prompt=state_in_prompt,
        keys=keys,
    )
    return dict(
        type="ParquetDataset",
        data_root_path=data_root_path,
        transforms=[inputs, *before, dict(type="AugmentImages"), normalize_images],
        action_window_size=action_horizon,
        **windows,
    )


def observation_transforms(
    policy: Policy,
    *,
    tokenizer: Section,
    num_cameras: int,
    units: Sequence[Section] = (),
    state_in_prompt: bool = True,
    keys: Section | None = None,
) -> list[Section]:
    """The transforms of an observation, the same in training and on the robot."""
    if policy == "gr00t":
        return [
            *units,
            dict(
                type="NormalizeStatesAndActions",
                norm_type=NORM_TYPES[policy],
                **GR00T_DIMS,
                **deepcopy(keys or {}),
            ),
            dict(
                type="ProcessPromptsWithImage",
                tokenizer=tokenizer,
                max_len=LENGTH_PER_CAMERA * num_cameras,
                num_images=num_cameras,
            ),
            dict(type="LeRobotResizeImages", **IMAGE_SIZE),
            dict(type="SimpleNormalizeImages"),
        ]
    has_bins = policy == "pi05" and state_in_prompt
    length = TASK_AND_STATE_LENGTH if has_bins else TASK_LENGTH
    return [
        *units,
        dict(type="NormalizeStatesAndActions", norm_type=NORM_TYPES[policy]),
        dict(type="PreparePromptWithState" if has_bins else "TaskPrompter"),
        dict(type="ProcessPrompts", tokenizer=tokenizer, max_len=length),
        dict(type="ResizeImagesWithPad", **IMAGE_SIZE),
        dict(type="SimpleNormalizeImages"),
    ]


def inference_runner(
    policy: Policy,
    *,
    type: str,
    task_descriptions: Mapping[str, str],
    cameras: Sequence[str],
    units: Sequence[Section] = (),
    state_in_prompt: bool = True,
    keys: Section | None = None,
    **settings: Any,
) -> Section:
    """How one robot runs the policy; the tokenizer is the one beside the checkpoint."""
    transforms = observation_transforms(
        policy,
        tokenizer=dict(type="PretrainedTokenizer"),
        num_cameras=len(cameras),
        units=units,
        state_in_prompt=state_in_prompt,
        keys=keys,
    )
    undone = {name: each for name, each in deepcopy(keys or {}).items() if name == "action_keys"}
    return dict(
        type=type,
        task_descriptions=dict(task_descriptions),
        dataset=dict(type="ObservationTransforms", img_keys=list(cameras), transforms=transforms),
        denormalize_action=dict(type="DenormalizeActions", norm_type=NORM_TYPES[policy], **undone),
        **settings,
    )


def dataloader(
    groups: Mapping[str, Section],
    **settings: Any,
) -> Section:
    """Batches of 8 per GPU from datasets, each with its own statistics.

    Args:
        groups: robot -> its dataset.
        settings: other settings of `DistributedRepeatingDataset`: `Columns.statistics` and more.
    """
    return dict(
        per_device_batch_size=8,
        per_device_num_workers=4,
        dataset=dict(
            type="DistributedRepeatingDataset",
            datasets={robot: [section] for robot, section in groups.items()},
            **settings,
        ),
    )
