"""Chunks that continue the running one: the C++ loop beside PyTorch's `sample_actions(rtc=...)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from flux_core.bundle import Bundle
from flux_core.models import FlowPolicy, PrefixCache, sample_actions
from flux_core.norm_stats import compute_stats
from flux_core.policy_io import PolicyIO
from flux_core.rtc import RTCConfig
from flux_core.transforms import (
    AlohaToPi,
    NormalizeStatesAndActions,
    Pipeline,
    RelativeActions,
    apply,
)
from flux_core.types import Observation
from flux_runtime import _core
from flux_runtime.control.session import shipped_policy
from flux_runtime.engines.graph_inputs import user_inputs
from flux_runtime.engines.opening import open_flow_policy
from flux_runtime.export.graphs import PrefixGraph
from flux_runtime.export.source.policy import load_policy

from ..small_gr00t import SHORT_PROMPT

Rows = NDArray[np.float32]
TOLERANCE = 1e-4
SCHEDULES = ("exp", "linear", "ones", "zeros")


@dataclass(frozen=True)
class Deployed:
    """A bundle, the network that it was exported from, and one observation.

    `stride` is the number of actions that the network predicts together.
    """

    bundle: Bundle
    model: FlowPolicy
    io: PolicyIO
    stride: int

    @property
    def horizon(self) -> int:
        return self.bundle.manifest.action_horizon

    @property
    def delays(self) -> range:
        return range(0, self.horizon, self.stride)

    @cached_property
    def observation(self) -> Observation:
        random = np.random.default_rng(1)
        images = {
            name: random.integers(0, 256, (96, 128, 3), np.uint8)
            for name in self.bundle.manifest.cameras
        }
        state = random.uniform(-0.5, 0.5, self.io.state_dim).astype(np.float32)
        return Observation(images=images, state=state, prompt="push the box", timestamp_s=0.0)

    @cached_property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        encoded = self.io.encode(self.observation)
        return {name: encoded[name] for name in user_inputs(self.bundle.manifest)}

    @cached_property
    def noise(self) -> Rows:
        shape = (self.horizon, self.bundle.manifest.action_dim)
        return np.random.default_rng(2).standard_normal(shape, np.float32)

    @cached_property
    def cache(self) -> PrefixCache:
        scale, offset = (torch.from_numpy(x) for x in self.io.image_affine)
        graph = PrefixGraph(self.model, scale, offset, torch.float32)
        names = ("images", "image_masks", "lang_tokens", "lang_masks")
        with torch.no_grad():
            pads, *pairs = graph(*(torch.from_numpy(self.inputs[name]) for name in names))
        return PrefixCache(tuple(pairs[0::2]), tuple(pairs[1::2]), pads)

    def pytorch(self, rtc: RTCConfig, previous: Rows) -> Rows:
        state = self.inputs.get("state")
        actions = sample_actions(
            self.model,
            None if state is None else torch.from_numpy(state),
            self.cache,
            torch.from_numpy(self.noise)[None],
            self.bundle.manifest.num_inference_steps,
            rtc=rtc,
            previous=torch.from_numpy(previous)[None],
            action_dims=len(self.io.scale),
        )
        return actions[0].numpy()


@dataclass(frozen=True)
class Robot:
    """A robot's rows left of the running chunk, and what training makes of them.

    `left` is in robot units (K, A); `previous` is normalised by the transforms of training and
    padded (K, N).
    """

    decoder: Any
    state: Rows
    left: Rows
    previous: Rows


@pytest.fixture(scope="module", params=["pi0", "pi05", "gr00t", "shipped"])
def deployed(
    request: pytest.FixtureRequest,
    exported: Callable[..., Any],
    small_policy: Callable[..., Any],
) -> Deployed:
    """pi0, pi0.5, GR00T, and the shipped pi0.5, which predicts four actions together."""
    if request.param == "shipped":
        bundle = Bundle.open(shipped_policy("aloha-sim"))
        model = load_policy(bundle.directory).model
    else:
        # The same bundle as in the tests of GR00T's bundles.
        options = {"prompt_tokens": (SHORT_PROMPT,)} if request.param == "gr00t" else {}
        bundle, _ = exported(request.param, **options)
        model = small_policy(request.param).model.eval()
    stride = model.config.prefix_stride
    return Deployed(bundle, model, PolicyIO.from_bundle(bundle), stride)


@pytest.fixture(scope="module", params=["absolute", "relative"])
def robot(request: pytest.FixtureRequest, deployed: Deployed) -> Robot:
    """Absolute actions, and ones that are relative to the state in all joints but one."""
    io = deployed.io
    if request.param == "relative":
        mask = (*[True] * (len(io.scale) - 1), False)
        relative = RelativeActions(mask=mask)
        inference = io.inference
        pipeline = Pipeline((relative, *inference.dataset.transforms))
        io = replace(io, inference=inference.with_pipeline(pipeline))
    random = np.random.default_rng(3)
    state = random.uniform(-1, 1, len(io.scale)).astype(np.float32)
    left = random.uniform(-1, 1, (deployed.horizon, len(io.scale))).astype(np.float32)
    return Robot(
        decoder=decoder_of(io),
        state=state,
        left=left,
        previous=trained(io, state, left, deployed.bundle.manifest.action_dim),
    )


def decoder_of(io: Any) -> Any:
    return _core.ActionDecoder(scale=io.scale, offset=io.offset, relative_mask=io.relative_mask)


def trained(io: PolicyIO, state: Rows, actions: Rows, network_dim: int) -> Rows:
    """Returns actions as training would give them to the network: the transforms forwards."""
    steps = [*io.pipeline.unit_steps, *io.pipeline.steps(NormalizeStatesAndActions)]
    sample = apply(steps, {"states": state, "actions": actions, "stats": io.stats})
    normalised = np.asarray(sample["actions"], np.float32)
    return np.pad(normalised, ((0, 0), (0, network_dim - normalised.shape[1])))


@pytest.fixture(scope="module", params=["onnxruntime", "openvino"])
def policy(request: pytest.FixtureRequest, deployed: Deployed) -> Any:
    """The policy on each CPU engine; a skip says which one is not installed."""
    if request.param == "openvino":
        pytest.importorskip("openvino", reason="pip install 'flux-runtime[openvino]'")
    return open_flow_policy(deployed.bundle, engine=request.param)


def infer(
    policy: Any, deployed: Deployed, robot: Robot, prefix_len: int, rows: int, **settings: Any
) -> Rows:
    """Returns normalised actions that continue the robot's first `rows` rows."""
    network_dim = deployed.bundle.manifest.action_dim
    previous = robot.decoder.encode(robot.left[:rows], network_dim, robot.state)
    continuation = _core.ContinuationSettings(delays=list(deployed.delays), **settings)
    return policy.infer(deployed.inputs, deployed.noise, previous, prefix_len, continuation)


def test_known_rows_become_what_training_makes_of_them(deployed: Deployed, robot: Robot) -> None:
    dim = deployed.bundle.manifest.action_dim
    encoded = robot.decoder.encode(robot.left, dim, robot.state)
    np.testing.assert_allclose(encoded, robot.previous, atol=1e-5)
    np.testing.assert_allclose(robot.decoder.decode(encoded, robot.state), robot.left, atol=1e-6)


def test_known_rows_are_converted_to_pis_units_and_made_relative() -> None:
    mask = (*[True] * 6, False) * 2
    random = np.random.default_rng(4)
    stats = {name: compute_stats(random.uniform(-1, 1, (50, 14))) for name in ("proprio", "action")}
    steps = (AlohaToPi(), RelativeActions(mask=mask), NormalizeStatesAndActions())
    state, left = (random.uniform(-0.5, 0.5, shape).astype(np.float32) for shape in (14, (5, 14)))
    sample = apply(steps, {"states": state, "actions": left, "stats": stats})
    inverse = Pipeline(steps).action_inverse(stats, 14)
    encoded = decoder_of(inverse).encode(left, 16, state)
    np.testing.assert_allclose(encoded[:, :14], sample["actions"], atol=1e-5)
    assert not encoded[:, 14:].any()


def test_a_known_prefix_of_every_delay_gives_pytorchs_chunk(
    policy: Any, deployed: Deployed, robot: Robot
) -> None:
    free = policy.infer(deployed.inputs, deployed.noise)
    for delay in deployed.delays[1:]:
        expected = deployed.pytorch(RTCConfig(prefix_len=delay), robot.previous)
        found = infer(policy, deployed, robot, delay, delay)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        assert np.abs(found[delay:] - free[delay:]).max() > 10 * TOLERANCE
        actions = robot.decoder.decode(found, robot.state)
        np.testing.assert_allclose(actions[:delay], robot.left[:delay], atol=1e-6)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_guidance_of_every_delay_gives_pytorchs_chunk(
    policy: Any, deployed: Deployed, robot: Robot, schedule: Any
) -> None:
    horizon = deployed.horizon
    # The shipped network is larger: a few delays.
    for delay in range(1, horizon, 1 if deployed.stride == 1 else 11):
        for rows, decay_end in ((horizon, None), (horizon - 1, horizon), (delay, None)):
            rtc = RTCConfig(
                method="guidance",
                prefix_len=delay,
                decay_end=decay_end,
                schedule=schedule,
                max_guidance_weight=3.0,
            )
            expected = deployed.pytorch(rtc, robot.previous[:rows])
            settings = {"decay_end": decay_end, "max_guidance_weight": 3.0}
            settings |= {"method": "guidance", "schedule": schedule}
            found = infer(policy, deployed, robot, delay, rows, **settings)
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["prefix", "guidance"])
def test_with_an_empty_prefix_the_chunk_is_bit_identical_to_no_rtc(
    policy: Any, deployed: Deployed, robot: Robot, method: str
) -> None:
    free = policy.infer(deployed.inputs, deployed.noise)
    for rows in (deployed.horizon, 1):
        found = infer(policy, deployed, robot, 0, rows, method=method)
        np.testing.assert_array_equal(found, free)
    infer(policy, deployed, robot, deployed.stride, deployed.horizon, method=method)
    np.testing.assert_array_equal(policy.infer(deployed.inputs, deployed.noise), free)


def test_noise_and_known_rows_are_never_written(
    policy: Any, deployed: Deployed, robot: Robot
) -> None:
    noise, previous = deployed.noise.copy(), robot.previous.copy()
    for array in (noise, previous):
        array.flags.writeable = False
    for method in ("prefix", "guidance"):
        settings = _core.ContinuationSettings(method=method, delays=list(deployed.delays))
        policy.infer(deployed.inputs, noise, previous, deployed.stride, settings)
    np.testing.assert_array_equal(noise, deployed.noise)
    np.testing.assert_array_equal(previous, robot.previous)


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["prefix", "guidance"])
def test_a_card_continues_chunks_as_the_processor_does(exported: Any, method: str) -> None:
    from flux_runtime.engines.opening import engine_tolerance
    from flux_runtime.engines.status import engine_status

    status = engine_status("onnxruntime-cuda")
    if not status.ok:
        pytest.skip(f"{status.found}. {status.fix}")
    bundle, _ = exported("pi05")
    deployed = Deployed(bundle, None, PolicyIO.from_bundle(bundle), 1)  # type: ignore[arg-type]
    previous = 0.5 * deployed.noise[::-1].copy()
    found, expected = (
        open_flow_policy(bundle, engine=engine).infer(
            deployed.inputs,
            deployed.noise,
            previous,
            3,
            _core.ContinuationSettings(method=method, delays=[0, 3]),  # type: ignore[arg-type]
        )
        for engine in ("onnxruntime-cuda", "onnxruntime")
    )
    tolerance = engine_tolerance(bundle.manifest, "onnxruntime-cuda")
    np.testing.assert_allclose(found, expected, atol=tolerance)


@pytest.mark.parametrize(
    ("settings", "rows", "prefix_len", "message"),
    [
        ({"delays": [0, 4]}, 8, 3, r"prefix_len: .*trained with \(0, 4\), got 3"),
        ({"method": "guidance"}, 2, 3, "prefix_len: expected at most 2 "),
        ({"delays": [0, 99]}, 8, 0, "delays: expected ascending numbers from 0 to action_horizon"),
        ({"prefix_len": 2, "delays": [0, 4]}, 8, 4, "prefix_len: expected a delay that the policy"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    exported: Callable[..., Any],
    settings: dict[str, Any],
    rows: int,
    prefix_len: int,
    message: str,
) -> None:
    bundle, _ = exported("pi05")
    deployed = Deployed(bundle, None, PolicyIO.from_bundle(bundle), 1)  # type: ignore[arg-type]
    policy = open_flow_policy(bundle, engine="onnxruntime")
    previous = np.zeros((rows, bundle.manifest.action_dim), np.float32)
    with pytest.raises(ValueError, match=message):
        policy.infer(
            deployed.inputs,
            deployed.noise,
            previous,
            prefix_len,
            _core.ContinuationSettings(**settings),
        )
    with pytest.raises(ValueError, match=r"previous: expected float32 \(2, 32\)"):
        policy.infer(
            deployed.inputs,
            deployed.noise,
            previous[:2, 1:],
            1,
            _core.ContinuationSettings(method="guidance"),
        )
    with pytest.raises(ValueError, match="continuation: expected settings together with"):
        policy.infer(deployed.inputs, deployed.noise, previous, 1)


def test_guidance_through_the_jacobian_is_refused() -> None:
    with pytest.raises(ValueError, match="use_vjp: expected False, because an exported graph has"):
        _core.ContinuationSettings(method="guidance", use_vjp=True)
    with pytest.raises(ValueError, match="method: expected 'prefix' or 'guidance', got 'both'"):
        _core.ContinuationSettings(method="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="schedule: expected 'exp', 'linear', 'ones' or 'zeros'"):
        _core.ContinuationSettings(schedule="cosine")  # type: ignore[arg-type]


def test_a_measured_delay_becomes_the_next_usable_one() -> None:
    settings = _core.ContinuationSettings(delays=[0, 4, 8, 12, 16])
    horizons = {"execution_horizon": 16, "action_horizon": 32}
    assert [settings.usable_delay(rows, **horizons) for rows in (0, 3, 8, 13, 17)] == [
        *(0, 4, 8, 16, None)
    ]
    assert settings.largest_usable_delay(execution_horizon=10, action_horizon=32) == 8
    guided = _core.ContinuationSettings(method="guidance")
    assert guided.usable_delay(13, **horizons) == 13
