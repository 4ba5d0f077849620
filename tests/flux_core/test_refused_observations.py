"""An observation that a policy cannot use is refused with the camera's name and a remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flux_core.bundle import Bundle
from flux_core.errors import DataError
from flux_core.policy_io import PolicyIO
from flux_core.types import Observation

CAMERA = "observation.images.cam_high: expected (height, width, 3) uint8 RGB, got "
GOOD = np.zeros((12, 16, 3), np.uint8)

IMAGES: Mapping[str, tuple[Any, str]] = {
    "None": (None, "None. Wait until the camera has delivered an image"),
    "PIL": (Image.fromarray(GOOD), "Image. Convert it: np.asarray(image.convert('RGB'))"),
    "torch": (torch.zeros(12, 16, 3), "Tensor. Convert it: image.cpu().numpy()"),
    "a list": (GOOD.tolist(), "list. Convert it: np.asarray(image, dtype=np.uint8)"),
    "bytes": (b"\x89PNG", "bytes. Decode it first"),
    "empty": (GOOD[:0], "uint8 (0, 16, 3), an empty image. Check the camera"),
    "no values": (np.zeros(0, np.uint8), "uint8 (0,), an empty image"),
    "float32": (GOOD.astype(np.float32), "float32 (12, 16, 3). Convert it: image.round()"),
    "int64": (GOOD.astype(np.int64), "int64 (12, 16, 3). Convert it"),
    "bool": (GOOD.astype(bool), "bool (12, 16, 3). Convert it"),
    "channels first": (
        GOOD.transpose(2, 0, 1),
        "uint8 (3, 12, 16), with the channels first. Convert it: image.transpose(1, 2, 0)",
    ),
    "alpha": (np.zeros((12, 16, 4), np.uint8), "uint8 (12, 16, 4), with an alpha channel."),
    "grey": (GOOD[:, :, 0], "uint8 (12, 16), a grey image. Convert it: np.repeat"),
    "one channel": (GOOD[:, :, :1], "uint8 (12, 16, 1), a grey image. Convert it: np.repeat"),
    "a batch": (GOOD[None], "uint8 (1, 12, 16, 3), a batch of one. Give the image itself"),
    "two channels": (GOOD[:, :, :2], "uint8 (12, 16, 2)"),
}


@pytest.fixture(scope="module")
def io(tiny_export: Path) -> PolicyIO:
    return PolicyIO.from_bundle(Bundle.open(tiny_export / "bundle"))


@pytest.fixture
def observation(io: PolicyIO) -> Observation:
    images = {"cam_high": GOOD}
    return Observation(images=images, state=io.mean_state, prompt="move the cube", timestamp_s=0.0)


def refusal(io: PolicyIO, observation: Observation, **changes: Any) -> str:
    with pytest.raises(DataError) as error:
        io.encode(replace(observation, **changes))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_good_observation_is_encoded(io: PolicyIO, observation: Observation) -> None:
    io.encode(observation)
    io.encode(replace(observation, state=observation.state.astype(np.float64).tolist()))
    io.encode(replace(observation, images={"cam_high": GOOD[:, ::-1], "other": None}))


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_that_cannot_be_used_names_its_camera(
    name: str, io: PolicyIO, observation: Observation
) -> None:
    image, said = IMAGES[name]
    assert refusal(io, observation, images={"cam_high": image}).startswith(CAMERA + said)


def test_missing_cameras_are_named(io: PolicyIO, observation: Observation) -> None:
    expected = "observation.images: expected camera 'cam_high', got "
    assert refusal(io, observation, images={"top": GOOD}) == f"{expected}top"
    assert refusal(io, observation, images={}) == f"{expected}none"
    said = refusal(io, observation, images=None)
    assert "expected camera name -> image, got NoneType. The cameras are cam_high" in said
    assert "got list" in refusal(io, observation, images=[GOOD])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (None, "expected 14 numbers, got None. Read the robot's joints"),
        ([], "expected shape (14,), got (0,). Is it the state of "),
        (np.zeros(7), "expected shape (14,), got (7,). Is it the state of "),
        (np.zeros((1, 14)), "expected shape (14,), got (1, 14), a batch of one. Give"),
        (["a"] * 14, "expected 14 numbers, got ['a'"),
        ([[1.0], [1.0, 2.0]], "expected 14 numbers, got [[1.0], [1.0, 2.0]]"),
        (np.full(14, np.nan), "expected finite numbers, got NaN or infinity at joint 0"),
    ],
)
def test_a_state_that_cannot_be_used_is_named(
    state: Any, said: str, io: PolicyIO, observation: Observation
) -> None:
    assert refusal(io, observation, state=state).startswith(f"observation.state: {said}")


@pytest.mark.parametrize("prompt", [None, 3, ["move"]])
def test_a_task_that_is_no_text_is_named(
    prompt: Any, io: PolicyIO, observation: Observation
) -> None:
    said = refusal(io, observation, prompt=prompt)
    assert said == f"observation.prompt: expected the task in words, got {prompt!r}"
