"""The robot description in a bundle."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import bind
from ..errors import ConfigError
from .spec import READ_VERSIONS, SCHEMA_VERSION, RobotSpec


def carried_robot(config: Mapping[str, Any]) -> RobotSpec | None:
    """Returns the robot description in a bundle's config; None if the config only names its robot.

    Args:
        config: a bundle's config.json as plain data.

    Raises:
        ConfigError: it does not describe a robot; the message begins with the field.
    """
    section = config.get("inference")
    robot = section.get("robot") if isinstance(section, Mapping) else None
    if robot is None or isinstance(robot, str):
        return None
    if isinstance(robot, Mapping):
        if robot.get("type", "RobotSpec") != "RobotSpec":
            raise ConfigError(
                f"inference.robot.type: expected 'RobotSpec', got {robot['type']!r:.80}"
            )
        version = robot.get("schema_version", SCHEMA_VERSION)
        if version not in READ_VERSIONS:  # a newer version may have unknown fields
            raise ConfigError(
                f"inference.robot.schema_version: expected "
                f"{READ_VERSIONS[0]} to {SCHEMA_VERSION}, got {version!r:.80}. Install the version "
                f"of flux that wrote it"
            )
    return bind(RobotSpec, robot, "inference.robot")
