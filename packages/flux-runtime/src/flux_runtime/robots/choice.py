"""Which robot is driven, by which driver, with which settings, in which Python.

This is decided before the driver's process starts, from the options, the bundle and the file of
`--robot-config`. Nothing of the driver is imported here.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flux_core.bundle import Bundle, DescribedBundle
from flux_core.config import bind, did_you_mean
from flux_core.errors import (
    BundleError,
    ConfigError,
    MissingDependencyError,
    RobotError,
    UsageError,
)
from flux_core.robots import FAMILIES, ROBOT_SPECS, family_of, is_called, variants_of

from .config_file import OPTION as CONFIG_OPTION
from .config_file import read_robot_config
from .interpreter import OPTION as PYTHON_OPTION
from .interpreter import python_with
from .recordings import recorded_robot
from .shipped import (
    DATASET,
    DATASET_TARGET,
    LEROBOT,
    LEROBOT_DRIVER,
    LEROBOT_TARGET,
    PREFIXES,
    REAL,
    SIMULATED,
    Transport,
)

_FLAGS = ("use_depth_image", "use_robot_base")


@dataclass(frozen=True, kw_only=True)
class RobotChoice:
    """A robot, and how its driver is made.

    Attributes:
        name: the robot's name: `aloha-agilex` where the options say only `aloha`.
        target: what the driver's process loads, as MODULE:CLASS; None: the provider of `name`.
        arguments: keyword arguments of that class, plain data.
        python: the Python of the driver's process; None for this one.
        is_simulated: whether the driver is stepped on simulated time; None: its class tells.
        is_recorded: whether the robot plays recordings, which follow no command.
        lines: what was decided and why, for the operator.
    """

    name: str
    target: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    python: Path | None = None
    is_simulated: bool | None = None
    is_recorded: bool = False
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RobotRequest:
    """What the options say of a robot.

    Attributes:
        name: of `--robot`.
        bundle: the directory of the policy, if there is one.
        described: the policy's bundle, if that is not on this computer.
        topics: of `--topic`: field of the robot's operator -> value.
        config_file: of `--robot-config`.
        transport: of `--transport`.
        python: of `--driver-python`.
        accept_versions: of `--accept-version`.
    """

    name: str
    bundle: Path | None = None
    described: DescribedBundle | None = None
    topics: Mapping[str, object] = field(default_factory=dict[str, object])
    config_file: Path | None = None
    transport: str | None = None
    python: Path | None = None
    accept_versions: Sequence[str] = ()


def choose_robot(request: RobotRequest) -> RobotChoice:
    """Returns the robot that the options ask for.

    Raises:
        UsageError: an option does not fit the robot.
        RobotError: the robot's name is one of a family, and nothing says which of it.
        BundleError: the bundle is of another robot of the family, or cannot be read.
        MissingDependencyError: no Python has what the driver needs.
    """
    config = read_robot_config(request.config_file)
    is_asked = request.name.startswith(PREFIXES) or request.name in (*REAL, *FAMILIES)
    bundle = _bundle(request) if is_asked else None
    if request.name.startswith(LEROBOT):
        return _lerobot(request, config, bundle)
    if request.name.startswith(DATASET):
        return _dataset(request, config, bundle)
    name, lines = _variant(request.name, bundle)
    if name in REAL:
        return _real(request, name, config, bundle, lines)
    _refuse_transport(request)
    if config and name in SIMULATED:
        raise UsageError(f"{CONFIG_OPTION}: expected none, because robot {name} takes no settings")
    return RobotChoice(name=name, arguments=config, python=request.python, lines=lines)


def _bundle(request: RobotRequest) -> DescribedBundle | None:
    """Opens the bundle without reading its weights, which is done later."""
    if request.bundle is None:
        return request.described
    versions = tuple(request.accept_versions)
    try:
        return Bundle.open(request.bundle, verify=False, accept_versions=versions)
    except BundleError:
        return Bundle.open(request.bundle, accept_versions=versions)  # it says more precisely why


def _variant(name: str, bundle: DescribedBundle | None) -> tuple[str, tuple[str, ...]]:
    """Returns the robot's own name, and a line if the options or the bundle say only its family."""
    variants, trained = variants_of(name), bundle.manifest.robots if bundle else ()
    if not variants:
        family = family_of(name)
        if family is None or bundle is None or name in trained or family not in trained:
            return name, ()
        return name, (
            f"robot: {name}, as you say; the bundle says only {family}, so its limits and units "
            f"are not known to be of this robot",
        )
    options = " or ".join(f"--robot {variant}" for variant in variants)
    found = [variant for variant in variants if variant in trained]
    if len(found) == 1:
        return found[0], (f"robot: {name} is {found[0]}, which the bundle was trained for",)
    if bundle is None:
        raise RobotError(
            f"{name}: expected the variant of the robot, because there is no bundle that tells it. "
            f"Say {options}"
        )
    if name in trained or found:
        said = f"only {name}" if not found else " and ".join(found)
        raise RobotError(
            f"{name}: expected a bundle that says which variant it was trained for, got one that "
            f"says {said}. Their arms differ in ranges, signs and gripper units: say {options}"
        )
    raise BundleError(
        f"manifest.json: robots: expected {name}, got {', '.join(trained)}. Use a bundle that was "
        f"trained for this robot."
    )


def _check_trained_for(name: str, bundle: DescribedBundle | None) -> None:
    """Refuses a bundle of another robot before a driver is looked for."""
    robots = bundle.manifest.robots if bundle else (name,)
    if not any(is_called(name, robot) for robot in robots):
        raise BundleError(
            f"manifest.json: robots: expected {name}, got {', '.join(robots)}. Train with data of "
            f"that robot, or use another bundle."
        )


def _real(
    request: RobotRequest,
    name: str,
    config: dict[str, Any],
    bundle: DescribedBundle | None,
    lines: tuple[str, ...],
) -> RobotChoice:
    """Returns a real robot that flux has a driver for."""
    _check_trained_for(name, bundle)
    known = REAL[name]
    transport = request.transport or next(iter(known))
    if transport not in known:
        raise UsageError(
            f"--transport: expected {' or '.join(known)} for robot {name}, got {transport!r}"
        )
    driver = known[transport]
    if "spec" in config:
        raise UsageError(
            f"{CONFIG_OPTION}: expected no spec, because flux describes robot {name}. For other "
            f"limits use --limit and --max-velocity, or write a driver of your own"
        )
    arguments: dict[str, Any] = {"spec": dataclasses.asdict(ROBOT_SPECS[name])}
    if driver.operator is not None:
        topics = _topics(request, driver, config.pop("topics", {}), bundle)
        flags = {flag: topics.pop(flag) for flag in _FLAGS if flag in topics}
        arguments |= {"topics": topics, "transport": transport}
        arguments |= {flag: value for flag, value in flags.items() if value}
    elif request.topics:
        raise UsageError(f"--topic: expected ROS, got --transport {transport}. Leave one out")
    python, line = python_with(name, driver, transport, request.python)
    return RobotChoice(
        name=name,
        target=driver.target,
        arguments=arguments | config,
        python=python,
        is_simulated=False,
        lines=(*lines, line),
    )


def _topics(
    request: RobotRequest, driver: Transport, of_file: object, bundle: DescribedBundle | None
) -> dict[str, Any]:
    """Returns the fields of the robot's operator: the bundle's, which the file of `--robot-config`
    changes, and `--topic` last."""
    assert driver.operator is not None, "asked by the caller"
    section: object = bundle.config.get("inference") if bundle else None
    carried = section.get("operator") if isinstance(section, Mapping) else None
    known = [each.name for each in dataclasses.fields(driver.operator)]
    values: dict[str, Any] = {}
    if isinstance(carried, Mapping):
        values |= {name: value for name, value in carried.items() if name in known}
    if not isinstance(of_file, Mapping):
        raise UsageError(f"{CONFIG_OPTION}: topics: expected a mapping, got {of_file!r:.60}")
    for option, changes in ((f"{CONFIG_OPTION}: topics", of_file), ("--topic", request.topics)):
        for name, value in changes.items():
            if name not in known:
                hint = did_you_mean(str(name), known)
                kind = driver.operator.__name__
                raise UsageError(f"{option}: {kind} has no field {name!r}.{hint}")
            values[name] = value
    try:
        return dataclasses.asdict(bind(driver.operator, values, "operator"))
    except ConfigError as error:
        raise UsageError(f"--topic: {error}") from error


def _lerobot(
    request: RobotRequest, config: dict[str, Any], bundle: DescribedBundle | None
) -> RobotChoice:
    """Returns a robot of the user's LeRobot environment."""
    kind = request.name.removeprefix(LEROBOT)
    if not kind:
        raise UsageError("--robot: expected lerobot:TYPE, such as lerobot:so101_follower")
    _refuse_transport(request)
    _refuse_topics(request)
    arguments: dict[str, Any] = {"robot_type": kind, "config": config}
    if bundle is not None:
        arguments["control_hz"] = bundle.manifest.control_hz
    python, line = python_with(request.name, LEROBOT_DRIVER, "LeRobot", request.python)
    return RobotChoice(
        name=request.name,
        target=LEROBOT_TARGET,
        arguments=arguments,
        python=python,
        is_simulated=False,
        lines=(line,),
    )


def _dataset(
    request: RobotRequest, config: dict[str, Any], bundle: DescribedBundle | None
) -> RobotChoice:
    """Returns a dataset's episodes as a robot."""
    directory = request.name.removeprefix(DATASET)
    if not directory:
        raise UsageError("--robot: expected dataset:DIR, such as dataset:datasets/my_robot")
    _refuse_transport(request)
    _refuse_topics(request)
    if request.python is not None:
        raise UsageError(f"{PYTHON_OPTION}: expected none, because a dataset has no driver")
    if not Path(directory).is_dir():
        raise UsageError(f"--robot: dataset: {directory}: no such folder")
    if importlib.util.find_spec("flux_data") is None:
        raise MissingDependencyError(
            f"{request.name}: recordings need flux-data, which is not installed. Install it with: "
            f"pip install packages/flux-core packages/flux-data"
        )
    arguments: dict[str, Any] = {"directory": directory}
    if bundle is not None:
        arguments |= recorded_robot(bundle)
    return RobotChoice(
        name=request.name,
        target=DATASET_TARGET,
        arguments=arguments | config,
        is_simulated=True,
        is_recorded=True,
        lines=(f"robot: the recordings in {directory}",),
    )


def _refuse_transport(request: RobotRequest) -> None:
    if request.transport is not None:
        raise UsageError(
            f"--transport: expected none for robot {request.name}, got {request.transport!r}: it "
            f"is for {', '.join(REAL)}"
        )


def _refuse_topics(request: RobotRequest) -> None:
    if request.topics:
        raise UsageError(f"--topic: expected none for robot {request.name}, which has no topics")
