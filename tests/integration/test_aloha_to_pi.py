"""A policy in pi's units, from the config to the commands of the C++ loop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flux_core.bundle.bundle import Bundle
from flux_core.errors import ConfigError
from flux_core.models import sample_actions
from flux_core.models.weights.checkpoint_file import load_checkpoint
from flux_core.policy_io import PolicyIO
from flux_core.robots import robot_spec
from flux_core.transforms import apply
from flux_core.types import Observation
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.policy_source import BundleSource, ChunkRequest, chunk_noise
from flux_runtime.engines.core import load_core
from flux_runtime.engines.golden_replay import replay_golden
from flux_runtime.engines.graph_inputs import user_inputs
from flux_runtime.engines.opening import open_flow_policy
from flux_runtime.export.cli import main as export_main
from flux_runtime.export.source.policy import load_policy
from flux_train.cli import main as train_main
from flux_train.config.tree import read_train_config

from ..flux_data.samples.test_statistics_in_pi_units import GRIPPERS, MASK, SIGNS, pi_states

CONFIG = """
from flux_train import recipes

model = recipes.small_pi05_model(action_horizon=32)
train_dataloader = recipes.small_aloha_sim_data(
    data_root_path="elsewhere", action_horizon=32, batch_size=8
)
runner = recipes.small_runner(max_steps=2)
inference = recipes.small_aloha_sim_inference(execution_horizon=16)
units = [dict(type="AlohaToPi"), dict(type="RelativeActions", mask=[*[True] * 6, False] * 2)]
train_dataloader["dataset"]["datasets"]["transforms"][1:1] = TRAINED
inference["dataset"]["transforms"][:0] = DEPLOYED
del units
"""


def write_config(folder: Path, trained: str = "units", deployed: str = "units") -> Path:
    path = folder / "config.py"
    path.write_text(CONFIG.replace("TRAINED", trained).replace("DEPLOYED", deployed))
    return path


@pytest.fixture(scope="module")
def options(tiny_options: list[str]) -> list[str]:
    """The tiny sizes; the prompt transform is two places further down the list."""
    moved = {"transforms.3.": "transforms.5.", "transforms.2.": "transforms.4."}
    tiny = []
    for option in tiny_options:
        for old, new in moved.items():
            if old in option:
                option = option.replace(old, new)
                break
        tiny.append(option)
    return [*tiny, "runner.max_steps=2"]


@pytest.fixture(scope="module")
def checkpoint(options: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint with random weights, so that every input affects the actions."""
    folder = tmp_path_factory.mktemp("aloha_to_pi")
    path = write_config(folder)
    assert train_main([str(path), str(folder / "run"), "--cfg-options", *options]) == 0
    state = load_checkpoint(folder / "run" / "checkpoint_epoch_1.pt")
    generator = torch.Generator().manual_seed(5)
    state["ema"] = {
        name: 0.2 * torch.randn(value.shape, generator=generator)
        for name, value in state["ema"].items()
    }
    torch.save(state, folder / "run" / "random.pt")
    return folder / "run" / "random.pt"


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("export") / "bundle"
    assert export_main([str(checkpoint), "--out", str(out)]) == 0
    return Bundle.open(out)


STATE = np.array([0.3, -0.9, 1.1, 0.2, -0.3, 0.1, 0.8, -0.2, -1.0, 1.2, 0.1, -0.4, 0.3, 0.1])


def observation() -> Observation:
    image = np.random.default_rng(1).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    state = STATE.astype(np.float32)
    return Observation(
        images={"cam_high": image}, state=state, prompt="transfer the cube", timestamp_s=0.0
    )


class StandingRobot:
    """Returns the same observation every time."""

    spec = robot_spec("aloha-sim")

    def observe(self, prompt: str, cameras: Any) -> Observation:
        return observation()


def undone(normalised: np.ndarray, io: PolicyIO) -> np.ndarray:
    """Undoes each step: normalisation, relative actions, and pi's units with `_encode_actions`."""
    scale, offset = io.stats["action"].affine("quantile")
    in_pi = normalised * scale + offset
    in_pi = in_pi + np.where(MASK, pi_states(STATE.astype(np.float32)), 0.0).astype(np.float32)
    actions = SIGNS * in_pi
    actions[:, GRIPPERS] = (in_pi[:, GRIPPERS] + 0.5476 + 0.6213) / (1.4910 + 0.6213)
    return actions


def pytorch_actions(checkpoint: Path, io: PolicyIO, noise: np.ndarray) -> np.ndarray:
    """Applies training's transforms after the conversion, runs the network, and converts back."""
    policy, seen = load_policy(checkpoint), observation()
    config = load_checkpoint(checkpoint)["config"]
    transforms = policy.inference.dataset.transforms
    assert [type(t).__name__ for t in transforms[:2]] == ["AlohaToPi", "RelativeActions"]
    assert config["train_dataloader"]["dataset"]["datasets"]["transforms"][1]["type"] == "AlohaToPi"
    sample = apply(
        transforms[2:],
        {
            "images": [seen.images["cam_high"]],
            "image_masks": np.ones(1, bool),
            "states": pi_states(seen.state).astype(np.float32),
            "task_description": seen.prompt,
            "stats": io.stats,
        },
    )
    names = ("images", "image_masks", "lang_tokens", "lang_masks")
    with torch.no_grad():
        cache = policy.model.prefix(*(torch.from_numpy(sample[name])[None] for name in names))
        state, start = (torch.from_numpy(x)[None] for x in (sample["states"], noise))
        normalised = sample_actions(policy.model, state, cache, start)
    return undone(normalised[0].numpy(), io)


def commands(source: BundleSource, seed: int) -> np.ndarray:
    """Returns the commands that the C++ loop sends for one chunk, with very wide limits."""
    loop = load_core().ControlLoop(
        **source.loop_arguments({}),
        limits=load_core().SafetyLimits(
            lower=[-1e3] * 14, upper=[1e3] * 14, max_velocity=[1e6] * 14
        ),
        control_hz=50.0,
        execution_horizon=source.execution_horizon,
        mode="sync",
    )
    loop.start(STATE.astype(np.float32))
    robot: Any = StandingRobot()
    source.submit(loop, robot, ChunkRequest(seed=seed, chunk_index=0, prompt="transfer the cube"))
    return np.stack([loop.tick()[0] for _ in range(source.execution_horizon)])


def test_the_loop_sends_pytorchs_actions_after_every_transform_is_undone(
    bundle: Bundle, checkpoint: Path
) -> None:
    io: Any = PolicyIO.from_bundle(bundle)
    policy = open_flow_policy(bundle)
    source = BundleSource(
        bundle=bundle, encoder=io, policy=policy, engine="onnxruntime", times=StageTimes()
    )
    sent = commands(source, seed=3)
    noise = chunk_noise(3, 0, (32, 14))
    # The same normalised actions: joints are bit-identical, grippers differ by rounding.
    encoded = io.encode(observation())
    inputs = {name: encoded[name] for name in user_inputs(bundle.manifest)}
    expected = undone(policy.infer(inputs, noise), io)[:16]
    joints = np.array(MASK)
    np.testing.assert_array_equal(sent[:, joints], expected[:, joints].astype(np.float32))
    np.testing.assert_allclose(sent, expected, atol=1e-5)
    # The network's own actions: ONNX Runtime may differ by the export's tolerance.
    allowed = 1e-4 * np.abs(io.scale)
    reference = pytorch_actions(checkpoint, io, noise)[:16]
    assert np.all(np.abs(sent - reference) <= allowed + 1e-5)
    assert np.ptp(reference, axis=0).min() > 1e-3, "a chunk without motion tests nothing"


def test_the_state_is_converted_before_it_is_normalised(bundle: Bundle) -> None:
    io = PolicyIO.from_bundle(bundle)
    scale, offset = io.state_stats.affine("quantile")
    found = io.encode(observation())["state"][0]
    expected = (pi_states(STATE.astype(np.float32)) - offset) / scale
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_bundle_carries_the_statistics_and_its_golden_holds(bundle: Bundle) -> None:
    assert replay_golden(bundle, open_flow_policy(bundle)).ok
    io = PolicyIO.from_bundle(bundle)
    # The golden's state must be a possible state of the robot.
    assert io.mean_state.shape == (14,)
    assert ((io.mean_state[GRIPPERS] > 0) & (io.mean_state[GRIPPERS] < 1)).all()
    names = [t["type"] for t in bundle.config["inference"]["dataset"]["transforms"][:2]]
    assert names == ["AlohaToPi", "RelativeActions"]


def test_a_bundle_whose_transforms_were_swapped_is_refused(bundle: Bundle) -> None:
    from dataclasses import replace

    from flux_core.errors import BundleError

    tree = json.loads(json.dumps(bundle.config))
    transforms = tree["inference"]["dataset"]["transforms"]
    transforms[0], transforms[1] = transforms[1], transforms[0]
    with pytest.raises(BundleError, match="expected AlohaToPi before RelativeActions"):
        PolicyIO.from_bundle(replace(bundle, config=tree))


@pytest.mark.parametrize(
    ("trained", "deployed", "message"),
    [
        ("units", "units[1:]", "AlohaToPi differs from training: expected [AlohaToPi()], got []"),
        ("units[1:]", "units", "AlohaToPi differs from training: expected [], got [AlohaToPi()]"),
        ("units", "units[:1]", "RelativeActions differs from training: expected [RelativeActions("),
        ("units[::-1]", "units", "datasets.transforms: expected AlohaToPi before RelativeActions"),
        ("units", "units[::-1]", "dataset.transforms: expected AlohaToPi before RelativeActions"),
    ],
)
def test_a_config_whose_inference_does_not_undo_training_is_refused(
    trained: str, deployed: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as error:
        read_train_config(write_config(tmp_path, trained, deployed), [])
    assert message in str(error.value)
