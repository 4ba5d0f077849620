"""A GR00T in a bundle: left-padded prompts of any length, missing cameras, trained delays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from flux_core.bundle import Bundle, prompt_columns, write_manifest
from flux_core.errors import BundleError
from flux_core.models import sample_actions
from flux_core.policy_io import PolicyIO
from flux_core.transforms import Tokenization
from flux_core.types import Observation
from flux_runtime.check import check
from flux_runtime.control.latency import StageTimes
from flux_runtime.control.session import RunOptions, open_policy
from flux_runtime.engines.graph_inputs import user_inputs
from flux_runtime.engines.opening import open_flow_policy
from flux_runtime.export import verify
from flux_runtime.export.source.policy import TrainedPolicy

from ..conftest import Exported
from ..small_gr00t import CAMERAS, SHORT_PROMPT
from .test_export_options import check_attention

Rows = NDArray[np.float32]
MISSING = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]


@pytest.fixture(scope="module")
def trained(small_policy: Callable[[str], TrainedPolicy]) -> TrainedPolicy:
    return small_policy("gr00t")


@pytest.fixture(scope="module")
def bundle(exported: Exported) -> Bundle:
    """With graphs for short prompts beside those for any; read-only."""
    return exported("gr00t", prompt_tokens=(SHORT_PROMPT,))[0]


def observation(prompt: str = "push the box") -> Observation:
    random = np.random.default_rng(5)
    images = {name: random.integers(0, 256, (48, 64, 3), np.uint8) for name in CAMERAS}
    state = random.uniform(-0.5, 0.5, 14).astype(np.float32)
    return Observation(images=images, state=state, prompt=prompt, timestamp_s=0.0)


def encoded(bundle: Bundle, prompt: str = "push the box") -> dict[str, NDArray[Any]]:
    every = PolicyIO.from_bundle(bundle).encode(observation(prompt))
    return {name: every[name] for name in user_inputs(bundle.manifest)}


def noise_for(bundle: Bundle) -> Rows:
    shape = (bundle.manifest.action_horizon, bundle.manifest.action_dim)
    return np.random.default_rng(6).standard_normal(shape, np.float32)


def on_the_robot(bundle: Bundle, inputs: Mapping[str, NDArray[Any]]) -> Rows:
    """The actions of the C++ loop."""
    policy = open_flow_policy(bundle, engine="onnxruntime")
    return policy.infer(dict(inputs), noise_for(bundle))


# Prompts, padded on the left.


def test_every_pair_of_graphs_reproduces_the_golden(bundle: Bundle) -> None:
    assert list(bundle.manifest.prompt_buckets) == [SHORT_PROMPT]
    report = check(bundle.directory, engine="onnxruntime")
    assert report["ok"] and sorted(report["graphs"]) == [SHORT_PROMPT, 96]


@pytest.mark.parametrize("task", ["push", "push it"])
def test_graphs_for_short_prompts_give_the_same_actions(bundle: Bundle, task: str) -> None:
    short = bundle.for_prompts(PolicyIO.from_bundle(bundle).most_tokens(task))
    assert short.manifest.max_prompt_tokens == SHORT_PROMPT
    inputs = encoded(short, task)
    masks = inputs["lang_masks"][0]
    assert masks.shape == (SHORT_PROMPT,) and masks[-1] and not masks[0]
    whole = on_the_robot(bundle, encoded(bundle, task))
    np.testing.assert_allclose(on_the_robot(short, inputs), whole, atol=1e-4)
    other = on_the_robot(bundle, encoded(bundle, "fold"))
    assert np.abs(other - whole).max() > 1e-3


def test_the_runtime_opens_the_shortest_graphs_that_the_tasks_fit(bundle: Bundle) -> None:
    spec = PolicyIO.from_bundle(bundle).inference.spec
    for task, tokens in (("push", SHORT_PROMPT), ("push the box there", 96)):
        options = RunOptions(robot="aloha", bundle=bundle.directory, task=task)
        opened = open_policy(options, spec, StageTimes())
        assert opened is not None and opened.golden is not None and opened.golden.ok
        assert opened.manifest.max_prompt_tokens == tokens, task


@pytest.mark.parametrize(
    ("masks", "width", "expected"),
    [
        ([0, 0, 1, 1], 2, slice(2, 4)),
        ([0, 0, 1, 1], 3, slice(1, 4)),
        ([1, 1, 0, 0], 2, slice(0, 2)),
        ([1, 1, 0, 0], 3, slice(0, 3)),
        ([1, 1, 1, 1], 4, slice(0, 4)),
        ([1, 1, 1, 1], 3, None),
        ([0, 1, 1, 1], 2, None),
    ],
)
def test_a_prompt_is_cut_where_its_padding_is(
    masks: list[int], width: int, expected: slice | None
) -> None:
    assert prompt_columns(np.array([masks], np.bool_), width) == expected


def test_a_golden_whose_prompt_is_too_long_for_the_graphs_is_refused(
    bundle: Bundle, tmp_path: Path
) -> None:
    golden = load_file(bundle.path("golden.safetensors"))
    golden["input.lang_masks"][:] = True
    for file in bundle.directory.rglob("*"):
        target = tmp_path / file.relative_to(bundle.directory)
        target.mkdir(exist_ok=True) if file.is_dir() else target.hardlink_to(file)
    (tmp_path / "golden.safetensors").unlink()
    save_file(golden, tmp_path / "golden.safetensors")
    write_manifest(tmp_path, bundle.manifest)
    damaged = Bundle.open(tmp_path)
    assert damaged.golden()["input.lang_masks"].all()
    with pytest.raises(
        BundleError, match=rf"lang_masks: expected a prompt of at most {SHORT_PROMPT} tokens"
    ):
        damaged.with_bucket(SHORT_PROMPT).golden()


# Missing cameras.


@torch.no_grad()
def without(trained: TrainedPolicy, missing: tuple[int, ...], noise: Rows) -> Rows:
    """PyTorch's actions with a prompt and images of the other cameras alone."""
    inference = trained.inference
    left = [camera for camera in range(len(CAMERAS)) if camera not in missing]
    pipeline = inference.pipeline.replace(Tokenization, num_images=len(left))
    dataset = replace(inference.dataset, img_keys=tuple(CAMERAS[i] for i in left))
    fewer = replace(inference, dataset=replace(dataset, transforms=pipeline.transforms))
    io = PolicyIO.from_policy(fewer, trained.norm_stats)
    inputs = {name: torch.from_numpy(np.array(v)) for name, v in io.encode(observation()).items()}
    assert inputs["images"].shape[1] == len(left)
    scale, offset = (torch.from_numpy(x)[None, :, None, None] for x in io.image_affine)
    pixels = (inputs["images"].float() * scale + offset).movedim(-1, 2)
    names = ("image_masks", "lang_tokens", "lang_masks")
    cache = trained.model.prefix(pixels, *(inputs[name] for name in names))
    start = torch.from_numpy(noise)[None]
    dims = len(io.scale)
    return sample_actions(trained.model, inputs["state"], cache, start, action_dims=dims)[0].numpy()


@pytest.mark.parametrize("missing", MISSING, ids=str)
def test_a_masked_camera_gives_the_actions_of_a_network_without_it(
    trained: TrainedPolicy, bundle: Bundle, missing: tuple[int, ...]
) -> None:
    inputs = encoded(bundle)
    whole = on_the_robot(bundle, inputs)
    inputs["image_masks"][0, list(missing)] = False
    found = on_the_robot(bundle, inputs)
    expected = without(trained, missing, noise_for(bundle))
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
    assert np.abs(found - whole).max() > 1e-3
    inputs["images"][0, list(missing)] = 255
    np.testing.assert_array_equal(on_the_robot(bundle, inputs), found)


def test_an_export_in_bfloat16_without_a_camera_is_near_the_bundle_with_it_masked(
    bundle: Bundle, exported: Exported
) -> None:
    kept = (CAMERAS[0], CAMERAS[2])
    fewer, figures = exported("gr00t", precision="bf16", cameras=kept)
    check_attention(fewer)
    assert fewer.manifest.cameras == kept and 0 < figures.own_error <= figures.tolerance
    inputs, noise = encoded(bundle), noise_for(bundle)
    inputs["image_masks"][0, 1] = False
    masked = on_the_robot(bundle, inputs)
    alone = {**encoded(fewer), "noise": noise[None]}
    steps = fewer.manifest.num_inference_steps
    found = verify.run_loop(*verify.open_sessions(fewer, 1), alone, steps)["actions"][0]
    np.testing.assert_allclose(found, masked, atol=2 * figures.tolerance)
    every_camera = on_the_robot(bundle, encoded(bundle))
    assert np.abs(every_camera - masked).max() > 4 * figures.tolerance


# Real-time chunking: `engines/test_continuation.py` compares the chunks with PyTorch's.


def test_the_bundle_says_which_delays_were_trained(bundle: Bundle) -> None:
    assert bundle.manifest.rtc_valid_delays == (0, 1, 2, 3)
