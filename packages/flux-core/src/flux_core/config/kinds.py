"""The kind of component that each field of a config takes, known without importing any.

A bundle names classes; this table says where each kind is allowed in its config.json, before the
class is imported. A test compares the table with the types that the dataclasses declare.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

DEFAULT_KIND = "transform"
"""The kind of a name that another distribution registers without a kind."""

# Field -> kind; the first match wins. '*' is any key, '#' any index, '**' any path.
FIELD_KINDS: dict[str, str | None] = {
    "": "config",
    "model": "model",
    "model.vision_backbone": "vision_backbone",
    "model.vision_backbone.vision_config": "vision_config",
    "model.projector": "projector",
    "model.*_proj": "projector",
    "model.*_mlp_*": "projector",
    "model.llm_*": "llm_backbone",
    "model.vl_self_attention": "mixer",
    "model.dit": "diffusion_transformer",
    "model.image_places": "image_places",
    "model.number_tokens": "number_tokens",
    "model.rtc_training_config": "rtc_training",
    "train_dataloader": "dataloader",
    "train_dataloader.dataset": "mixture",
    "train_dataloader.dataset.datasets.**.transforms.#": "transform",
    "train_dataloader.dataset.datasets.**.transforms.#.tokenizer": "tokenizer",
    # One dataset, a list of them, or a dict of lists under any keys.
    "train_dataloader.dataset.datasets": "dataset",
    "train_dataloader.dataset.datasets.#": "dataset",
    "train_dataloader.dataset.datasets.*.#": "dataset",
    "runner": "runner",
    "runner.collator": "collator",
    "runner.metric": "metric",
    "validation": "validation",
    "validation.dataset": "mixture",
    "validation.dataset.datasets.**.transforms.#": "transform",
    "validation.dataset.datasets.**.transforms.#.tokenizer": "tokenizer",
    "validation.dataset.datasets": "dataset",
    "validation.dataset.datasets.#": "dataset",
    "validation.dataset.datasets.*.#": "dataset",
    "inference": "deployment",
    "inference.task_descriptions.**": None,  # the user's task texts, under any keys
    "inference.dataset": "observation",
    "inference.dataset.**.transforms.#": "transform",
    "inference.dataset.**.transforms.#.tokenizer": "tokenizer",
    "inference.denormalize_action": "denormalization",
    "inference.operator": "operator",
    "inference.rtc_config": "rtc",
    "inference.robot": "robot",
    "inference.robot.kinematics": "kinematics",
    "inference.robot.kinematics.dh.#": "dh_joint",
    # Or a dict of several deployments, under any keys.
    "inference.*": "deployment",
    "inference.*.dataset": "observation",
    "inference.*.dataset.**.transforms.#": "transform",
    "inference.*.dataset.**.transforms.#.tokenizer": "tokenizer",
    "inference.*.denormalize_action": "denormalization",
    "inference.*.operator": "operator",
    "inference.*.rtc_config": "rtc",
    "inference.*.robot": "robot",
    "inference.*.robot.kinematics": "kinematics",
    "inference.*.robot.kinematics.dh.#": "dh_joint",
}

ROBOT_NAMES = (
    *("aloha-sim", "aloha", "aloha-agilex", "aloha-viperx"),
    *("ur3", "ur5e", "ur10e", "libero"),
)
"""Robots that a deployed config may name, because flux describes them. Others are written out."""

Place = tuple[str | int, ...]
"""Keys and indices from the root of a config to a value in it."""


def field_kind(place: Place) -> str | None:
    """Returns the kind of component that a field takes; None: it takes none."""
    return next((kind for field, kind in _FIELDS if _matches(field, place)), None)


def show_place(place: Place) -> str:
    """'inference.dataset.transforms[2]', on one line whatever the keys are."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{_plain(part)}" for part in place)
    return text.removeprefix(".")


def _matches(field: Sequence[str], place: Place) -> bool:
    if not field:
        return not place
    if field[0] == "**":
        return any(_matches(field[1:], place[start:]) for start in range(len(place) + 1))
    return bool(place) and _fits(field[0], place[0]) and _matches(field[1:], place[1:])


def _fits(part: str, key: str | int) -> bool:
    return part == "#" if isinstance(key, int) else part != "#" and fnmatchcase(key, part)


def _plain(key: str) -> str:
    text = ascii(key)[1:-1]
    return text if len(text) <= 60 else f"{text[:57]}..."


_FIELDS = [(tuple(field.split(".")) if field else (), kind) for field, kind in FIELD_KINDS.items()]
