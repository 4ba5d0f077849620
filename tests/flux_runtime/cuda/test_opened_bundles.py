"""Real bundles on the fake card, with Triton's interpreter behind its launches: from files to
actions, with the tiles of a real card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_runtime.cli import main
from flux_runtime.cuda.architectures import ARCHITECTURES
from flux_runtime.cuda.cubins import specialise
from flux_runtime.cuda.cubins.command import describe_for_plans
from flux_runtime.cuda.cubins.shipped import needed
from flux_runtime.cuda.pi import check_plan
from flux_runtime.cuda.player import open_cuda_policy, plan_bundle
from flux_runtime.engines.golden_replay import replay_golden
from flux_runtime.engines.opening import open_flow_policy

from ..conftest import one_json_object
from .fake_card import FakeCard
from .test_player_with_pi import Interpreted, core_that_names_kernels
from .toy_program import FakeCubins

if TYPE_CHECKING:
    from ..conftest import Exported

CAMERAS, ACTION_DIM = ("cam_high", "cam_wrist"), 7
"""Of the robot; the network's other actions are padding."""


def opened(bundle: Bundle, card: FakeCard, folder: Path, core: Any) -> Any:
    """The bundle's policy on the fake card."""
    cubins: Any = FakeCubins(folder)
    program = plan_bundle(bundle, cubins)
    assert not any(check_plan(plan) for plan in program.plans.values())
    interpreted = Interpreted(card, program)
    named = core_that_names_kernels(core, interpreted)
    policy = open_cuda_policy(bundle, cubins, named, card.library)
    interpreted.is_on = True
    return policy


def observation(bundle: Bundle, num_tokens: int) -> tuple[dict[str, Any], NDArray[np.float32]]:
    """The golden's inputs with a prompt of another length, and noise."""
    golden, random = bundle.golden(), np.random.default_rng(3)
    inputs = {
        name.removeprefix("input."): value
        for name, value in golden.items()
        if name.startswith("input.") and name != "input.noise"
    }
    shape = inputs["lang_tokens"].shape
    is_real = np.arange(shape[1])[None] < num_tokens
    inputs["lang_tokens"] = np.where(is_real, random.integers(1, 200, shape), 0)
    inputs["lang_masks"] = is_real
    return inputs, random.standard_normal(golden["input.noise"].shape[1:], np.float32)


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_a_bundle_becomes_the_policy_that_a_processor_runs(
    kind: str, exported: Exported, card: FakeCard, tmp_path: Path, core: Any
) -> None:
    """Its golden, and a continued chunk with a masked camera and a prompt in another bucket."""
    bundle, _ = exported(kind, precision="bf16")
    assert bundle.manifest.cameras == CAMERAS
    policy = opened(bundle, card, tmp_path, core)
    reference = open_flow_policy(bundle, engine="openvino")
    assert (policy.inputs, policy.action_shape) == (reference.inputs, reference.action_shape)
    assert replay_golden(bundle, policy).ok

    inputs, noise = observation(bundle, num_tokens=40)
    inputs["image_masks"] = np.array([[False, True]])
    known = np.clip(noise[:3] * 0.1, -1, 1)
    known[:, ACTION_DIM:] = 0.0
    prefix = core.ContinuationSettings(method="prefix", delays=(0, 2))
    found = policy.infer(inputs, noise, known, 2, prefix)
    expected = reference.infer(inputs, noise, known, 2, prefix)
    np.testing.assert_array_equal(found[:2], known[:2])
    np.testing.assert_allclose(found, expected, rtol=0, atol=bundle.manifest.tolerance)
    del policy
    assert card.live() == 0


def test_short_prompts_and_other_cards_need_no_kernel_that_build_leaves_out(
    exported: Exported, tmp_path: Path
) -> None:
    """`flux-runtime build --bundle` plans the whole bundle; a run opens it for its own prompts."""
    whole, _ = exported("pi0", precision="bf16")
    graphs = whole.manifest.graphs
    manifest = replace(whole.manifest, prompt_buckets={48: graphs, 16: graphs})
    bundle, network = replace(whole, manifest=manifest), describe_for_plans(whole.directory)
    for name, target in ARCHITECTURES.items():
        sizes = (network.num_cameras, network.max_prompt_tokens)
        built = {one.key for one in needed(network.description, *sizes, target)}
        for bucket, tokens in ((None, (16, 32, 48, 96)), (48, (16, 32, 48)), (16, (16,))):
            cubins: Any = FakeCubins(tmp_path, name)
            program = plan_bundle(bundle.with_bucket(bucket), cubins)
            assert list(program.plans) == [(c, t) for c in (1, 2) for t in tokens]
            for plan in program.plans.values():
                assert {specialise(plan, launch).key for launch in plan.launches} <= built


@pytest.mark.parametrize("kind", ["pi0", "pi05"])
def test_the_cost_of_a_bundle_is_that_of_its_plans(
    kind: str, exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, _ = exported(kind, precision="bf16")
    assert main(["bench", "--plan", str(bundle.directory), "--card", "h200", "--json"]) == 0
    report = one_json_object(capsys.readouterr().out)
    assert (report["bundle"], report["num_cameras"]) == (str(bundle.directory), 2)
    cubins: Any = FakeCubins(tmp_path)
    plans = plan_bundle(bundle, cubins).plans
    found = {
        (one["num_cameras"], one["num_tokens"]): one["total"]["launches"]
        for one in report["cards"]["h200"]["variants"]
    }
    assert found == {size: len(plan.launches) for size, plan in plans.items() if size[0] == 2}
