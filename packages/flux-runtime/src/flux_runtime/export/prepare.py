"""First step of an export: prepares the network for tracing, and runs PyTorch for reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from flux_core.errors import ExportError, RobotError, UsageError
from flux_core.models import FlowPolicy
from flux_core.policy_io import PolicyIO
from flux_core.robots import check_switches
from flux_core.types import Observation

from .export_progress import ExportSteps
from .golden_inputs import GOLDEN_SEED, Arrays, encoded, golden_inputs, pytorch_outputs
from .graphs import DenoiseGraph, PrefixGraph
from .options import ExportOptions
from .precision.calibration import read_observations, recorded_inputs
from .precision.moved_actions import CHECKED_OBSERVATIONS, MovedActions, moved_actions
from .precision.network import compute_dtype, set_precision
from .source.policy import WEIGHTS, TrainedPolicy
from .verify import tolerances


@dataclass(frozen=True, kw_only=True)
class PreparedNetwork:
    """A network that is ready to be traced, with its weights in the bundle's folder.

    Attributes:
        io: the robot's transforms and statistics.
        prefix, denoise: the modules to trace, in the bundle's precision.
        inputs: the golden's inputs, by name.
        reference: PyTorch's outputs in float32.
        own: PyTorch's outputs in the bundle's precision; None if that is float32.
        tolerance: largest error of normalised actions with which an engine may drive a robot.
        moved: how far the precision moves actions on a dataset's observations; None without one.
        prompt_buckets: prompt lengths that have separate graphs, shortest first.
    """

    io: PolicyIO
    prefix: PrefixGraph
    denoise: DenoiseGraph
    inputs: Arrays
    reference: Arrays
    own: Arrays | None
    tolerance: float
    moved: MovedActions | None
    prompt_buckets: tuple[int, ...]


def prepare(
    policy: TrainedPolicy, directory: Path, options: ExportOptions, steps: ExportSteps
) -> PreparedNetwork:
    """Runs PyTorch, converts the network to its exported form in place, and writes its weights.

    Raises:
        ExportError: an action is binary that the robot cannot switch, or the precision is too
            coarse for the policy.
        UsageError: a prompt bucket does not fit the policy's prompts.
    """
    model = policy.model
    io = PolicyIO.from_policy(policy.inference, policy.norm_stats)
    check_actions(io)
    observations = _calibration_observations(policy, options)
    # The ranges from calibration do not cover noise images, so use a real observation.
    inputs = golden_inputs(policy, io, observations[0] if observations else None)
    buckets = _checked_buckets(options, inputs)

    steps.begin("running PyTorch")
    graphs = _modules(model, io, torch.float32)
    reference = pytorch_outputs(*graphs, inputs)
    calibration = _calibrate(policy, io, graphs, observations, options, steps)
    judge = _ObservedActions(policy, io, observations, steps)
    expected, redrawn = (judge.run(graphs, draw) for draw in range(2))
    prefix_tokens = reference["prefix_pad_masks"].shape[1]
    weights = set_up_network(model, options, prefix_tokens, calibration)
    prefix, denoise = _modules(model, io, compute_dtype(options.precision))
    own = None if options.precision == "fp32" else pytorch_outputs(prefix, denoise, inputs)
    moved = None
    if observations:
        moved = moved_actions(expected, redrawn, judge.run((prefix, denoise), 0))
        moved.check(options.precision)

    steps.begin("writing the weights")
    save_file(weights, directory / WEIGHTS, metadata={"format": "pt"})
    return PreparedNetwork(
        io=io,
        prefix=prefix,
        denoise=denoise,
        inputs=inputs,
        reference=reference,
        own=own,
        tolerance=tolerances(reference, own, options.precision)["actions"],
        moved=moved,
        prompt_buckets=buckets,
    )


class _ObservedActions:
    """The actions of a network on some of a dataset's observations."""

    def __init__(
        self,
        policy: TrainedPolicy,
        io: PolicyIO,
        observations: Sequence[Observation],
        steps: ExportSteps,
    ) -> None:
        count = min(len(observations), CHECKED_OBSERVATIONS)
        spread = np.linspace(0, len(observations) - 1, count).round().astype(int)
        self._observations = [observations[index] for index in spread]
        self._policy, self._io, self._steps = policy, io, steps

    def run(self, graphs: tuple[PrefixGraph, DenoiseGraph], draw: int) -> list[NDArray[np.generic]]:
        """Returns the actions of each; every `draw` has its own noise."""
        found: list[NDArray[np.generic]] = []
        for number, observation in enumerate(self._observations):
            self._steps.begin(f"checking: sample {number + 1} of {len(self._observations)}")
            generator = np.random.default_rng((GOLDEN_SEED, draw, number))
            inputs = encoded(self._policy, self._io, observation, generator)
            found.append(pytorch_outputs(*graphs, inputs)["actions"])
        return found


def check_actions(io: PolicyIO) -> None:
    """Refuses binary actions of what is not a gripper.

    Raises:
        ExportError: it names the joint.
    """
    try:
        check_switches(io.binary_mask, io.inference.spec)
    except RobotError as error:
        raise ExportError(
            f"inference.denormalize_action.action_keys: {error}. Train this action with 'min_max'"
        ) from error


def set_up_network(
    model: FlowPolicy,
    options: ExportOptions,
    prefix_tokens: int,
    largest_inputs: Mapping[str, float],
) -> dict[str, Tensor]:
    """Converts a float32 network to its exported form, in place.

    Args:
        model: the network.
        options: provides the precision.
        prefix_tokens: number of prefix tokens with all cameras and the longest prompt.
        largest_inputs: largest input of each linear layer, from calibration; empty except for fp8.

    Returns:
        All weights, including those that tables replace, so that the file is a complete checkpoint.
    """
    before = model.state_dict()
    model.tabulate(model.config.num_inference_steps, prefix_tokens)
    replaced = {name: before[name] for name in before.keys() - model.state_dict().keys()}
    del before
    set_precision(model, options.precision, largest_inputs)
    weights = {**replaced, **model.state_dict()}
    return {name: value.contiguous() for name, value in weights.items()}


def _modules(
    model: FlowPolicy, io: PolicyIO, dtype: torch.dtype
) -> tuple[PrefixGraph, DenoiseGraph]:
    scale, offset = io.image_affine
    prefix = PrefixGraph(model, torch.from_numpy(scale), torch.from_numpy(offset), dtype)
    num_inference_steps = model.config.num_inference_steps
    binary = tuple(map(bool, io.binary_mask))
    return prefix, DenoiseGraph(model, num_inference_steps, len(io.scale), binary)


def _calibration_observations(
    policy: TrainedPolicy, options: ExportOptions
) -> Sequence[Observation]:
    if not options.calibrate:
        return ()
    cameras = policy.inference.dataset.img_keys
    return read_observations(options.calibrate, cameras, options.calibration_samples)


def _calibrate(
    policy: TrainedPolicy,
    io: PolicyIO,
    graphs: tuple[PrefixGraph, DenoiseGraph],
    observations: Sequence[Observation],
    options: ExportOptions,
    steps: ExportSteps,
) -> dict[str, float]:
    """Returns the largest input of each linear layer, in the prefix and all denoise steps, which
    only fp8 needs."""
    if options.precision != "fp8":
        return {}
    generator = np.random.default_rng(GOLDEN_SEED)
    with recorded_inputs(policy.model) as largest:
        for number, observation in enumerate(observations, 1):
            steps.begin(f"calibrating: sample {number} of {len(observations)}")
            pytorch_outputs(*graphs, encoded(policy, io, observation, generator))
    return largest


def _checked_buckets(options: ExportOptions, inputs: Arrays) -> tuple[int, ...]:
    """Returns the prompt lengths that get separate graphs, shortest first.

    Raises:
        UsageError: one of them is shorter than the golden's prompt, so that its graphs could not be
            verified, or not shorter than the policy's longest prompt.
    """
    least, most = int(inputs["lang_masks"].sum()), inputs["lang_masks"].shape[1]
    for tokens in options.prompt_tokens:
        if not least <= tokens < most:
            raise UsageError(
                f"--prompt-tokens: expected {least} (the prompt of the first task) to {most - 1} "
                f"(max_len of the policy is {most}), got {tokens}"
            )
    return tuple(sorted(set(options.prompt_tokens)))
