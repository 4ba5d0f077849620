"""What `flux-export` can be told about a bundle, and a checkpoint changed accordingly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flux_core.config import bind, unbind
from flux_core.deployment import InferenceRunner
from flux_core.errors import UsageError
from flux_core.models import PI0FlowMatching

from .policy import TrainedPolicy
from .precision.network import DEFAULT_OPSETS, OPSETS, PRECISIONS, Precision


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a bundle is written.

    Attributes:
        precision: what the network is computed in; see `precision/network.py`.
        opset: of the graphs; None for the one that suits the precision.
        num_inference_steps: Euler steps from noise to actions; None for the checkpoint's.
        cameras: those that the robot has, None for all of the checkpoint's. The others are masked,
            which is the same as leaving them out: that is what is exported.
        prompt_tokens: lengths of prompts for which the bundle gets graphs of their own. A shorter
            prefix is cheaper; the runtime takes the shortest graphs that its task fits.
        calibrate: the LeRobot dataset that fp8 takes its ranges from.
        calibration_samples: how many of its observations are looked at.
    """

    precision: Precision = "fp32"
    opset: int | None = None
    num_inference_steps: int | None = None
    cameras: tuple[str, ...] | None = None
    prompt_tokens: tuple[int, ...] = ()
    calibrate: str | None = None
    calibration_samples: int = 32

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"--precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}"
            )
        if self.opset is not None and self.opset not in OPSETS:
            raise UsageError(
                f"--opset: expected one of {', '.join(map(str, OPSETS))}, got {self.opset}"
            )
        if self.opset == OPSETS[0] and DEFAULT_OPSETS[self.precision] > OPSETS[0]:
            raise UsageError(
                f"--opset: {self.precision} needs {DEFAULT_OPSETS[self.precision]} or later, got "
                f"{self.opset}"
            )
        if self.num_inference_steps is not None and not 1 <= self.num_inference_steps <= 1000:
            raise UsageError(f"--num-steps: expected 1 to 1000, got {self.num_inference_steps}")
        if any(tokens < 1 for tokens in self.prompt_tokens):
            raise UsageError(f"--prompt-tokens: expected at least 1, got {self.prompt_tokens}")
        if (self.precision == "fp8") != (self.calibrate is not None):
            raise UsageError(
                "--calibrate: expected a dataset with --precision fp8, and none without; got "
                f"{self.calibrate or 'none'} with {self.precision}"
            )
        if self.calibration_samples < 1:
            raise UsageError(
                f"--calibration-samples: expected at least 1, got {self.calibration_samples}"
            )

    @property
    def graph_opset(self) -> int:
        """The opset that is written."""
        return self.opset or DEFAULT_OPSETS[self.precision]


def apply_options(policy: TrainedPolicy, options: ExportOptions) -> TrainedPolicy:
    """Returns the policy with the cameras and the number of steps of `options`."""
    if options.num_inference_steps is not None:
        model = policy.model
        model.config = replace(model.config, num_inference_steps=options.num_inference_steps)
        # Bound first, so that a key of an older checkpoint does not stay beside today's.
        trained = bind(PI0FlowMatching.Config, policy.config["model"], "model")
        section = unbind(replace(trained, num_inference_steps=options.num_inference_steps))
        policy = replace(policy, config={**policy.config, "model": section})
    if options.cameras is not None:
        inference = with_cameras(policy.inference, options.cameras)
        config = {**policy.config, "inference": unbind(inference)}
        policy = replace(policy, inference=inference, config=config)
    return policy


def with_cameras(inference: InferenceRunner, cameras: Sequence[str]) -> InferenceRunner:
    """Leaves out all other cameras; the order stays that of training.

    Raises:
        UsageError: a camera that the policy does not know, or none at all.
    """
    known = inference.dataset.img_keys
    unknown = [name for name in cameras if name not in known]
    if unknown or not cameras:
        raise UsageError(
            f"--cameras: expected some of {', '.join(known)}, got {', '.join(cameras) or 'none'}"
        )
    dataset = replace(
        inference.dataset,
        img_keys=tuple(name for name in known if name in cameras),
        transforms=inference.pipeline.with_cameras(cameras, known).transforms,
    )
    return replace(inference, dataset=dataset)
