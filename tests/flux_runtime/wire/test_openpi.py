"""The observations of openpi's clients, as its examples send them, and a file that names keys."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flux_core.errors import UsageError
from flux_core.robots import ROBOT_SPECS
from flux_runtime.wire import Bounds, KeyMap, PolicyFacts, WireError, observation_of, pack, unpack

from ...golden.make_openpi_messages import messages
from .conftest import a_picture

PICTURE = a_picture()
STATE = np.linspace(-1, 1, 14)


def with_policy(facts: PolicyFacts, robot: str, **manifest: Any) -> PolicyFacts:
    spec = ROBOT_SPECS[robot]
    fields = {"cameras": spec.cameras, "state_dim": spec.state_dim} | manifest
    return replace(facts, manifest=replace(facts.manifest, **fields), spec=spec)


def received(data: dict[str, Any], facts: PolicyFacts, keys: KeyMap | None = None) -> Any:
    """The observation of a message that went over the network."""
    keys = KeyMap.default(facts.manifest) if keys is None else keys
    return observation_of(unpack(pack(data), Bounds()), keys, facts, timestamp_s=1.5)


def refused(data: dict[str, Any], facts: PolicyFacts, keys: KeyMap | None = None) -> str:
    with pytest.raises(WireError) as caught:
        received(data, facts, keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_observation_of_openpis_aloha_is_found_by_its_names(facts: PolicyFacts) -> None:
    cameras = ("cam_high", "cam_left_wrist", "cam_right_wrist")
    aloha = with_policy(facts, "aloha-sim", cameras=cameras)
    found, noise = received(messages()["aloha"], aloha)
    assert list(found.images) == list(cameras)
    expected = messages()["aloha"]["images"]["cam_high"].transpose(1, 2, 0)
    assert all(np.array_equal(image, expected) for image in found.images.values())
    assert np.array_equal(found.state, np.linspace(-1, 1, 14).astype(np.float32))
    assert found.state.dtype == np.float32
    assert found.prompt == "transfer the cube"
    assert found.timestamp_s == 1.5
    assert noise is None


def test_openpis_simulated_aloha_sends_no_prompt(facts: PolicyFacts) -> None:
    data = {"state": STATE, "images": {"cam_high": PICTURE}}
    assert received(data, facts)[0].prompt == facts.manifest.prompt
    silent = replace(facts, manifest=replace(facts.manifest, prompt=""))
    assert "prompt" in refused(data, silent)


def test_an_observation_of_openpis_libero_is_found_by_its_names(libero: PolicyFacts) -> None:
    sent = messages()["libero"]
    found, _ = received(sent, libero)
    assert np.array_equal(found.images["image"], sent["observation/image"])
    assert np.array_equal(found.images["wrist_image"], sent["observation/wrist_image"])
    assert np.allclose(found.state, sent["observation/state"])
    assert found.prompt == sent["prompt"]


def test_libero_is_found_for_the_only_cameras_of_their_place(facts: PolicyFacts) -> None:
    policy = with_policy(facts, "libero", cameras=("agentview", "eye_in_hand"))
    found, _ = received(messages()["libero"], policy)
    assert np.array_equal(
        found.images["eye_in_hand"], messages()["libero"]["observation/wrist_image"]
    )


def test_droid_is_found_in_parts(facts: PolicyFacts) -> None:
    policy = with_policy(facts, "ur5e", state_dim=8, prompt="pick up the cube")
    sent = messages()["droid"] | {"prompt": "x"}
    found, _ = received(sent, policy)
    parts = [sent["observation/joint_position"], sent["observation/gripper_position"]]
    assert np.allclose(found.state, np.concatenate(parts))
    assert np.array_equal(found.images["cam_high"], sent["observation/exterior_image_1_left"])
    assert np.array_equal(found.images["cam_wrist"], sent["observation/wrist_image_left"])


@pytest.mark.parametrize("gripper", [np.array([0.5]), 0.5, [0.5], np.float32(0.5), np.array(0.5)])
def test_openpis_ur5_is_found_in_parts(facts: PolicyFacts, gripper: Any) -> None:
    policy = with_policy(facts, "ur5e")
    data = {"joints": np.arange(6.0), "gripper": gripper, "base_rgb": PICTURE, "prompt": "x"}
    found, _ = received(data | {"wrist_rgb": PICTURE}, policy)
    assert found.state.tolist() == [0, 1, 2, 3, 4, 5, 0.5]


def test_joints_are_no_state_of_a_robot_whose_state_is_a_pose(libero: PolicyFacts) -> None:
    sent = messages()["droid"] | {"prompt": "x"}
    assert "the state" in refused(sent, libero)


def test_a_gripper_of_two_numbers_is_not_guessed(facts: PolicyFacts) -> None:
    data = {"joints": np.arange(5.0), "gripper": np.zeros(2), "base_rgb": PICTURE}
    error = refused(data | {"wrist_rgb": PICTURE}, with_policy(facts, "ur5e"))
    assert "gripper: expected one number, got 2" in error


@pytest.mark.parametrize(
    "data",
    [
        {"observation.state": STATE, "observation.images.cam_high": PICTURE, "task": "x"},
        {"observation": {"state": STATE, "images": {"cam_high": PICTURE}}, "prompt": "x"},
        {"observation/state": STATE, "observation/images/cam_high": PICTURE, "prompt": "x"},
        {"observation/state": STATE, "observation/cam_high": PICTURE, "prompt": "x"},
        {"state": STATE, "images/cam_high": PICTURE, "prompt": "x"},
        {"state": STATE, "cam_high": PICTURE, "prompt": "x"},
        {"state": STATE.tolist(), "image": {"cam_high": PICTURE}, "prompt": "x"},
        {"state": STATE.astype(np.float16), "observation/image": PICTURE, "prompt": "x"},
    ],
)
def test_other_spellings_are_found_too(facts: PolicyFacts, data: dict[str, Any]) -> None:
    found, _ = received(data, facts)
    assert np.array_equal(found.images["cam_high"], PICTURE)
    assert np.allclose(found.state, STATE, atol=1e-3)
    assert found.prompt == "x"


def an_observation(**changes: Any) -> dict[str, Any]:
    return {"state": STATE, "images": {"cam_high": PICTURE}, "prompt": "x"} | changes


def test_other_keys_are_ignored(facts: PolicyFacts) -> None:
    data = an_observation(reset=True, actions=np.zeros(3), extra={"deep": {"er": 1}})
    assert received(data, facts)[0].prompt == "x"


@pytest.mark.parametrize("shape", [(32, 14), (1, 32, 14)])
def test_noise_is_used_as_it_is(facts: PolicyFacts, shape: tuple[int, ...]) -> None:
    noise = np.random.default_rng(0).standard_normal(shape)
    _, found = received(an_observation(noise=noise), facts)
    assert np.array_equal(found, noise.reshape(32, 14).astype(np.float32))


@pytest.mark.parametrize(
    "noise",
    [
        np.zeros((31, 14)),
        np.zeros((32, 14, 1)),
        np.zeros((2, 32, 14)),
        np.zeros(32 * 14),
        np.zeros((32, 14), np.int32),
        np.full((32, 14), np.nan),
        np.full((32, 14), np.inf, np.float32),
        [[0.0] * 14] * 32,
        True,
        7,
        "noise",
    ],
    ids=lambda noise: str(getattr(noise, "shape", noise))[:20],
)
def test_other_noise_is_refused(facts: PolicyFacts, noise: Any) -> None:
    assert "noise" in refused(an_observation(noise=noise), facts)


@pytest.mark.parametrize(
    "state",
    [
        np.zeros(13),
        np.zeros(15),
        np.zeros((1, 14)),
        np.zeros(0),
        np.zeros(14, bool),
        np.full(14, np.nan),
        np.full(14, np.inf),
        np.full(14, 1e31),
        np.full(14, 1e300),
        [True] * 14,
        ["0"] * 14,
        [None] * 14,
        [[0.0] * 14],
        [float("nan")] * 14,
        "state",
        None,
        b"",
        {},
    ],
    ids=lambda state: str(getattr(state, "shape", state))[:20],
)
def test_other_states_are_refused(facts: PolicyFacts, state: Any) -> None:
    assert "state" in refused(an_observation(state=state), facts)


@pytest.mark.parametrize("prompt", ["", "  ", 3, None, ["x"], b"x", np.zeros(2)])
def test_other_prompts_are_refused(facts: PolicyFacts, prompt: Any) -> None:
    silent = replace(facts, manifest=replace(facts.manifest, prompt=""))
    assert "prompt" in refused(an_observation(prompt=prompt), silent)


def test_what_is_missing_is_named_beside_what_was_found_and_what_to_do(facts: PolicyFacts) -> None:
    error = refused({"state": STATE, "images": {"cam_low": PICTURE}, "prompt": "x"}, facts)
    assert "camera cam_high" in error
    assert "images/cam_high or " in error
    assert "got images/cam_low, prompt, state" in error
    assert "--keys" in error
    error = refused({"images": {"cam_high": PICTURE}, "prompt": "x"}, facts)
    assert "expected the state as state or observation/state" in error
    assert "no keys" in refused({}, facts)


def test_a_line_about_many_keys_is_short(facts: PolicyFacts) -> None:
    error = refused({f"{i} \x1b[2J" + "k" * 400: 1 for i in range(500)}, facts)
    assert len(error) < 1500
    assert error.isprintable()


@pytest.mark.parametrize(
    "changes",
    [
        {"observation/state": STATE},
        {"cam_high": PICTURE},
        {"images/cam_high": PICTURE},
        {"images.cam_high": PICTURE},
        {"joints": np.zeros(13), "gripper": np.zeros(1)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_is_there_twice_is_refused(facts: PolicyFacts, changes: dict[str, Any]) -> None:
    assert refused(an_observation(**changes), facts)


def test_cameras_of_one_place_are_not_guessed(facts: PolicyFacts) -> None:
    policy = with_policy(facts, "ur5e", cameras=("cam_high", "cam_low"))
    data = {"joints": np.zeros(6), "gripper": np.zeros(1), "base_rgb": PICTURE, "prompt": "x"}
    assert "camera cam_high" in refused(data, policy)


def test_two_pictures_of_one_place_are_not_guessed(facts: PolicyFacts) -> None:
    data = {"state": STATE, "base_rgb": PICTURE, "observation/image": PICTURE, "prompt": "x"}
    assert "observation/image and base_rgb" in refused(data, facts)


def test_all_pictures_together_are_bounded(facts: PolicyFacts) -> None:
    policy = with_policy(facts, "aloha-sim")
    images = dict.fromkeys(policy.manifest.cameras, PICTURE)
    data = unpack(pack(an_observation(images=images)), Bounds())
    keys = KeyMap()
    assert observation_of(data, keys, policy, max_pixels=3 * 48)
    with pytest.raises(WireError, match="at most 47 pixels") as caught:
        observation_of(data, keys, policy, max_pixels=3 * 48 - 1)
    assert caught.value.kind == "oversized"


def keys_of(tmp_path: Path, data: object, facts: PolicyFacts, name: str = "keys.json") -> KeyMap:
    path = tmp_path / name
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return KeyMap.read(path, facts.manifest)


def test_a_file_names_the_keys(facts: PolicyFacts, tmp_path: Path) -> None:
    file = {"state": ["left", "robot.right"], "images": {"cam_high": "base"}, "prompt": "words"}
    keys = keys_of(tmp_path, file, facts)
    data = {"left": STATE[:7], "robot": {"right": STATE[7:]}, "base": PICTURE, "words": "x"}
    found, _ = received(data, facts, keys)
    assert np.allclose(found.state, STATE)
    assert found.prompt == "x"
    assert "as left" in refused({"robot/right": 1}, facts, keys)
    assert "as base" in refused({k: v for k, v in data.items() if k != "base"}, facts, keys)


def test_a_file_may_name_some_keys_only(facts: PolicyFacts, tmp_path: Path) -> None:
    keys = keys_of(tmp_path, "images: {cam_high: base}\n", facts, "keys.yaml")
    assert keys == KeyMap(images={"cam_high": "base"})
    assert received({"state": STATE, "base": PICTURE}, facts, keys)


@pytest.mark.parametrize(
    "file",
    [
        "[",
        "[]",
        '{"states": "a"}',
        '{"state": 3}',
        '{"state": [1]}',
        '{"state": [""]}',
        '{"images": ["a"]}',
        '{"images": {"cam_low": "a"}}',
        '{"images": {"cam_high": ["a"]}}',
        '{"images": {"cam_high": ""}}',
        '{"prompt": {}}',
        '{"prompt": []}',
    ],
)
def test_other_files_are_refused(facts: PolicyFacts, tmp_path: Path, file: str) -> None:
    with pytest.raises(UsageError, match=r"^--keys: .*keys\.json: "):
        keys_of(tmp_path, file, facts)


def test_a_file_that_cannot_be_read_is_refused(facts: PolicyFacts, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        KeyMap.read(tmp_path / "none.json", facts.manifest)
