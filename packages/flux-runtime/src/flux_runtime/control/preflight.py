"""Finds every error that can be found before the first control tick."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import Bundle, Manifest
from flux_core.errors import BundleError, ConfigError, RobotError
from flux_core.robots import (
    GripperClosing,
    MotionLimits,
    RobotSpec,
    Tightening,
    carried_robot,
    check_switches,
    is_called,
    limits_in_force,
    motion_limits,
)
from flux_core.types import Observation, image_fault

from ..engines.golden_replay import GoldenResult, InferencePolicy, replay_golden
from ..engines.graph_inputs import user_inputs

RETURN_SPEED_SHARE = 0.1
"""Of `max_velocity`: how fast a robot is led back to its limits, as the safety filter does it."""


def check_bundle_fits(manifest: Manifest, spec: RobotSpec) -> None:
    """Refuses a bundle that was trained for another robot, other cameras, dimensions or rate."""
    if not any(is_called(spec.name, name) for name in manifest.robots):
        raise BundleError(
            f"manifest.json: robots: expected {spec.name}, got "
            f"{', '.join(manifest.robots)}. Train with data of that robot, or use another bundle."
        )
    for name in manifest.cameras:
        if name not in spec.cameras:
            raise BundleError(
                f"manifest.json: cameras: expected cameras of robot {spec.name} "
                f"({', '.join(spec.cameras)}), got {name}. Use a bundle that was trained for this "
                f"robot."
            )
    joints = f"robot {spec.name} has {spec.action_dim} joints"
    if manifest.state_dim != spec.state_dim:
        has = f"{joints} and {spec.state_dim} states" if spec.state_names else joints
        raise BundleError(
            f"manifest.json: state_dim: expected {spec.state_dim} ({has}), got "
            f"{manifest.state_dim}. Use a bundle that was trained for this robot."
        )
    if manifest.action_dim < spec.action_dim:  # a wider network pads; the extra columns are dropped
        raise BundleError(
            f"manifest.json: action_dim: expected at least {spec.action_dim} ({joints}), got "
            f"{manifest.action_dim}. Use a bundle that was trained for this robot."
        )
    if abs(manifest.control_hz - spec.control_hz) > 1e-6:
        raise BundleError(
            f"manifest.json: control_hz: expected {spec.control_hz:g}, the rate of robot "
            f"{spec.name}, got {manifest.control_hz:g}. Use a bundle that was trained at this rate."
        )


def spec_in_force(config: Mapping[str, Any], driver: RobotSpec) -> RobotSpec:
    """Returns the driver's spec, with the limits that the bundle tightens.

    Args:
        config: the bundle's config.json; changes nothing if it only names its robot.
        driver: the spec of the robot's driver.

    Raises:
        BundleError: the bundle describes another robot, or has wider limits than the driver.
    """
    with _naming_the_bundle():
        carried = carried_robot(config)
        return driver if carried is None else limits_in_force(driver, carried)


def motion_limits_in_force(
    config: Mapping[str, Any], driver: RobotSpec, tightening: Tightening
) -> MotionLimits:
    """Returns the complete limits of a real robot.

    Args:
        config: the bundle's config.json; empty without a bundle.
        driver: the spec of the robot's driver.
        tightening: what the options tighten.

    Raises:
        BundleError: the bundle describes another robot, or has wider limits than the driver.
        UsageError: an option is wider than the limits, or of an unknown joint.
    """
    with _naming_the_bundle():
        return motion_limits(driver, carried_robot(config), tightening)


@contextmanager
def _naming_the_bundle() -> Iterator[None]:
    try:
        yield
    except ConfigError as error:
        raise BundleError(f"config.json: {error}. Export the bundle again.") from error
    except RobotError as error:
        raise BundleError(
            f"config.json: inference.robot.{error}. Use a bundle that was trained for this robot."
        ) from error


def check_decoder(scale: NDArray[np.float32], spec: RobotSpec) -> None:
    """Refuses statistics for a different number of joints than the robot has."""
    if scale.shape != (spec.action_dim,):
        raise BundleError(
            f"norm_stats.json: action: expected statistics of {spec.action_dim} joints, as robot "
            f"{spec.name} has, got {len(scale)}. Use a bundle that was trained for this robot."
        )


def check_binary(
    binary_mask: NDArray[np.bool_], spec: RobotSpec, closing: GripperClosing | None = None
) -> None:
    """Refuses a policy that would switch what is not a gripper.

    Args:
        binary_mask: (action_dim,) True where an action is 0 or 1.
        spec: the robot, with the limits in force.
        closing: the commands that the loop replaces.

    Raises:
        BundleError: such a joint is not a gripper, its limits exclude 0 or 1, or the loop replaces
            its commands.
    """
    try:
        check_switches(binary_mask, spec)
    except RobotError as error:
        raise BundleError(
            f"config.json: inference.denormalize_action.action_keys: {error}. Use a bundle that "
            f"was trained for this robot."
        ) from error
    if closing is None:
        return
    replaced = binary_mask & ~np.isnan(closing.closes_below)
    if replaced.any():
        raise BundleError(
            f"config.json: inference.gripper_threshold: expected none for "
            f"{spec.joint_names[int(np.argmax(replaced))]}, whose action is 0 or 1. Remove it from "
            f"the config"
        )


def check_golden(
    bundle: Bundle, policy: InferencePolicy, engine: str, tolerance: float | None = None
) -> GoldenResult:
    """Replays the golden and refuses an engine that does not reproduce it on this machine."""
    result = replay_golden(bundle, policy, tolerance=tolerance)
    if not result.ok:
        raise BundleError(
            f"golden.safetensors: {engine}: expected actions within {result.tolerance:g} of the "
            f"reference, got an error of {result.max_abs_error:.3g} (cosine {result.cosine:.6f}). "
            f"Do not drive a robot with this bundle on this machine; see 'flux-runtime check'."
        )
    return result


def check_encoding(inputs: Mapping[str, NDArray[Any]], manifest: Manifest) -> None:
    """Refuses network inputs that do not have the graphs' names, types and shapes."""
    for name, tensor in user_inputs(manifest).items():
        if name not in inputs:
            raise BundleError(
                f"config.json: inference: expected transforms that provide the graphs' input "
                f"{name!r}, got only {', '.join(sorted(inputs))}. Export the bundle again."
            )
        found = inputs[name]
        if (found.dtype.name, found.shape) != (tensor.dtype, tensor.shape):
            raise BundleError(
                f"config.json: inference: {name}: expected {tensor.dtype} {list(tensor.shape)}, as "
                f"the graphs take it, got {found.dtype.name} {list(found.shape)} from the "
                f"transforms. Export the bundle again."
            )


def check_observation(observation: Observation, spec: RobotSpec, cameras: Sequence[str]) -> None:
    """Refuses a first observation that no policy could use."""
    state = observation.state
    got = f"{state.dtype} {state.shape}" if isinstance(state, np.ndarray) else f"{state!r:.60}"
    if got != f"float32 ({spec.state_dim},)":
        raise RobotError(
            f"{spec.name}: observation.state: expected float32 ({spec.state_dim},), got "
            f"{got}. Check that the driver belongs to this robot."
        )
    for name, value in zip(spec.state_names or spec.joint_names, state, strict=True):
        if not np.isfinite(value):
            raise RobotError(
                f"{spec.name}: observation.state: joint {name}: expected a finite number, got "
                f"{value}. Check the joint's encoder and that the driver publishes all joints."
            )
    for name in cameras:
        if name not in observation.images:
            have = ", ".join(sorted(observation.images)) or "none"
            raise RobotError(
                f"{spec.name}: observation.images: expected an image from {name}, got {have}. "
                f"Check that the camera is connected and publishes."
            )
        if fault := image_fault(observation.images[name]):
            raise RobotError(
                f"{spec.name}: observation.images.{name}: expected uint8 (height, width, 3), "
                f"{fault}. Check the driver of the camera."
            )


@dataclass(frozen=True, kw_only=True)
class Excursion:
    """A joint that stands outside a limit.

    Attributes:
        joint: its index.
        found: where it stands.
        lower, upper: the limits in force.
    """

    joint: int
    found: float
    lower: float
    upper: float

    @property
    def limit(self) -> float:
        """The limit that it is outside of."""
        return self.lower if self.found < self.lower else self.upper

    def text(self, spec: RobotSpec) -> str:
        """Returns 'joint elbow: expected -1.5 to 1.5 rad, got 1.53'."""
        unit = "" if spec.units[self.joint] == "normalized" else f" {spec.units[self.joint]}"
        return (
            f"joint {spec.joint_names[self.joint]}: expected {self.lower:g} to {self.upper:g}"
            f"{unit}, got {self.found:.6g}"
        )

    def motion_text(self, spec: RobotSpec) -> str:
        """Returns 'elbow from 1.53 to 1.5 rad at 0.15 rad per second'."""
        unit = {"normalized": ""}.get(spec.units[self.joint], f" {spec.units[self.joint]}")
        speed = RETURN_SPEED_SHARE * spec.max_velocity[self.joint]
        return (
            f"{spec.joint_names[self.joint]} from {self.found:.4g} to {self.limit:g}{unit} at "
            f"{speed:.3g}{unit} per second"
        )


def excursions(limits: MotionLimits, state: NDArray[np.float32]) -> list[Excursion]:
    """Returns the joints that stand outside a limit by no more than the start tolerance.

    A robot that is commanded by differences has none: its states are not commands.

    Args:
        limits: those in force.
        state: (state_dim,) float32, measured.

    Raises:
        RobotError: a joint stands farther outside; nothing may be commanded from there.
    """
    found: list[Excursion] = []
    bounds = zip(state.tolist(), limits.lower, limits.upper, limits.start_tolerance, strict=False)
    for joint, (value, lower, upper, tolerance) in enumerate(bounds):
        excursion = Excursion(joint=joint, found=value, lower=lower, upper=upper)
        # Written so that a NaN is refused.
        if not lower - tolerance <= value <= upper + tolerance:
            hint = _unit_hint(limits.spec, excursion)
            raise RobotError(f"{limits.spec.name}: start pose: {excursion.text(limits.spec)}{hint}")
        if not lower <= value <= upper:
            found.append(excursion)
    return found


def _unit_hint(spec: RobotSpec, excursion: Excursion) -> str:
    """Says what to do: values of more than a turn are probably not radians."""
    value = excursion.found
    if spec.units[excursion.joint] == "rad" and abs(value) > 2 * math.pi:
        return (
            f". Does the driver return degrees? {value:g} degrees are {math.radians(value):.4g} "
            f"rad. Convert them in the driver"
        )
    return ". Move the robot to within its limits, or check the driver's calibration"
