"""The options of `flux-export`, and how they change a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace

from flux_core.config import bind, unbind
from flux_core.errors import UsageError
from flux_core.models import FlowPolicy
from flux_core.pictures import without_pictures

from .precision.network import DEFAULT_OPSETS, OPSETS, PRECISIONS, Precision
from .source.policy import TrainedPolicy
from .source.section import with_cameras


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a bundle is written.

    Attributes:
        precision: the network's precision; see `precision/network.py`.
        opset: opset of the graphs; None for the precision's default.
        num_inference_steps: Euler steps from noise to actions; None for the checkpoint's.
        cameras: the robot's cameras; None for all of the checkpoint's. The network would mask the
            others, which is equivalent to leaving them out, so the export leaves them out.
        prompt_tokens: prompt lengths for which the bundle gets separate graphs. A shorter prefix is
            cheaper; the runtime uses the shortest graphs that fit its task.
        camera_pictures: whether the bundle keeps the checkpoint's small pictures of each camera.
        calibrate: the LeRobot datasets from which fp8 gets its ranges, and on whose observations
            every precision but fp32 is judged.
        calibration_samples: number of their observations to use, as many of each.
    """

    precision: Precision = "fp32"
    opset: int | None = None
    num_inference_steps: int | None = None
    cameras: tuple[str, ...] | None = None
    prompt_tokens: tuple[int, ...] = ()
    camera_pictures: bool = True
    calibrate: tuple[str, ...] = ()
    calibration_samples: int = 32

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"--precision: expected one of {', '.join(PRECISIONS)}, got {self.precision!r}."
            )
        if self.opset is not None and self.opset not in OPSETS:
            raise UsageError(
                f"--opset: expected one of {', '.join(map(str, OPSETS))}, got {self.opset}"
            )
        if self.opset == OPSETS[0] and DEFAULT_OPSETS[self.precision] > OPSETS[0]:
            raise UsageError(
                f"--opset: expected {DEFAULT_OPSETS[self.precision]} or later for "
                f"{self.precision}, got {self.opset}."
            )
        if self.num_inference_steps is not None and not 1 <= self.num_inference_steps <= 1000:
            raise UsageError(f"--num-steps: expected 1 to 1000, got {self.num_inference_steps}")
        if self.cameras is not None and len({*self.cameras}) < len(self.cameras):
            raise UsageError(f"--cameras: expected each once, got {', '.join(self.cameras)}")
        if any(tokens < 1 for tokens in self.prompt_tokens):
            raise UsageError(f"--prompt-tokens: expected at least 1, got {self.prompt_tokens}")
        if self.precision == "fp8" and not self.calibrate:
            raise UsageError("--calibrate: expected a dataset with --precision fp8, got none.")
        if self.precision == "fp32" and self.calibrate:
            raise UsageError(
                "--calibrate: expected none with --precision fp32, got "
                f"{', '.join(self.calibrate)}."
            )
        least = max(1, len(self.calibrate))
        if self.calibration_samples < least:
            raise UsageError(
                f"--calibration-samples: expected at least {least}, one of each dataset, got "
                f"{self.calibration_samples}"
            )

    @property
    def graph_opset(self) -> int:
        """The opset of the exported graphs."""
        return self.opset or DEFAULT_OPSETS[self.precision]


def apply_options(policy: TrainedPolicy, options: ExportOptions) -> TrainedPolicy:
    """Returns the policy with the cameras and the number of steps of `options`."""
    if options.num_inference_steps is not None:
        model = policy.model
        model.config = replace(model.config, num_inference_steps=options.num_inference_steps)
        # Bind first, so that old keys of an older checkpoint are replaced by the current ones.
        trained = bind(FlowPolicy.Config, policy.config["model"], "model")
        section = unbind(replace(trained, num_inference_steps=options.num_inference_steps))
        policy = replace(policy, config={**policy.config, "model": section})
    if options.cameras is not None and set(options.cameras) != set(
        policy.inference.dataset.img_keys
    ):
        inference = with_cameras(policy.inference, options.cameras)
        config = {**policy.config, "inference": unbind(inference)}
        summary = dict(policy.data_summary)
        if "cameras" in summary:
            kept = inference.dataset.img_keys
            summary["cameras"] = {k: v for k, v in summary["cameras"].items() if k in kept}
        policy = replace(policy, inference=inference, config=config, data_summary=summary)
    if not options.camera_pictures and "cameras" in policy.data_summary:
        summary = dict(policy.data_summary)
        summary["cameras"] = without_pictures(summary["cameras"])
        policy = replace(policy, data_summary=summary)
    return policy
