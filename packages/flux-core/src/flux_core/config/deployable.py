"""Whether a config can be deployed: each `type` in it is registered, and allowed in its field.

A bundle or a checkpoint is untrusted data. Everything is decided here by names, before any class is
imported: see `installed` for who registers them and `kinds` for where they are allowed.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ConfigError
from .compat import current_type
from .installed import ENTRY_POINT_GROUP, Registration, installed, registration
from .kinds import DEFAULT_KIND, ROBOT_NAMES, Place, field_kind, show_place
from .registry import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Use:
    """One name in a config that stands for code: a `type`, or a robot's name.

    Attributes:
        place: keys and indices of the section, or of the robot.
        name: what is written.
        is_robot: whether it is a robot's name, which stands in place of a section.
    """

    place: Place
    name: object
    is_robot: bool = False

    @property
    def where(self) -> str:
        """'inference.dataset.transforms[2].type', 'inference.robot'."""
        return show_place(self.place if self.is_robot else (*self.place, "type"))

    @property
    def is_own_training_transform(self) -> bool:
        """Whether it names a transform of a training section by the path of its class."""
        is_path = isinstance(self.name, str) and ":" in self.name and not self.is_robot
        in_training = self.place[:1] in (("train_dataloader",), ("validation",))
        return is_path and in_training and field_kind(self.place) == DEFAULT_KIND

    def registration(self) -> Registration:
        """Returns the registration of the name.

        Raises:
            ConfigError: it is not registered, or not allowed here; nothing was imported.
        """
        if not isinstance(self.name, str):
            raise ConfigError(f"{self.where}: expected the name of a component, got {self._shown}.")
        wanted = field_kind(self.place)
        if wanted is None:
            raise ConfigError(f"{self.where}: no component is expected here, got {self._shown}.")
        if self.is_robot:
            return self._robot(self.name)
        found = registration(current_type(self.name), self.where)
        if found is None:
            raise ConfigError(f"{self.where}: {self._shown} {_why_not(self.name)}")
        if found.kind != wanted:
            raise ConfigError(
                f"{self.where}: expected a component of kind {wanted!r}, got {self._shown}, which "
                f"{found.distribution} registers as {found.kind!r}."
            )
        return found

    def obstacle(self) -> str | None:
        """Returns a line that says why a bundle could not carry the name; None if it can."""
        try:
            self.registration()
        except ConfigError as error:
            return str(error)
        return None

    def _robot(self, name: str) -> Registration:
        """Of a robot that flux describes; for any other, its code would have to be imported."""
        found = registration("RobotSpec", self.where)
        if name not in ROBOT_NAMES or found is None:
            raise ConfigError(
                f"{self.where}: expected the description of a robot (type 'RobotSpec'), or one of "
                f"{', '.join(ROBOT_NAMES)}, got {self._shown}. Train or export it again."
            )
        return replace(found, name=name)

    @property
    def _shown(self) -> str:
        text = ascii(self.name)
        return text if len(text) <= 80 else f"{text[:77]}..."


def uses(config: Mapping[str, Any]) -> Iterator[Use]:
    """Yields every name that stands for code, in order, at any depth of plain data."""
    pending: list[tuple[Place, object]] = [((), config)]
    while pending:
        place, value = pending.pop()
        inner: list[tuple[str | int, object]] = []
        if isinstance(value, Mapping):
            if "type" in value:
                yield Use(place=place, name=value["type"])
            inner = [(str(key), entry) for key, entry in value.items() if key != "type"]
        elif isinstance(value, list | tuple):
            inner = list(enumerate(value))
        elif isinstance(value, str) and place[-1:] == ("robot",) and field_kind(place) == "robot":
            yield Use(place=place, name=value, is_robot=True)
        pending += [((*place, key), entry) for key, entry in reversed(inner)]


def registrations(config: Mapping[str, Any]) -> dict[str, Registration]:
    """Returns the registration of each name in a config, by the name as it is written.

    Raises:
        ConfigError: the first name that is not registered, or not allowed in its field.
    """
    return {str(use.name): use.registration() for use in uses(config)}


def obstacles(config: Mapping[str, Any]) -> list[str]:
    """Returns one line for each `type` that a bundle could not carry."""
    return [obstacle for use in uses(config) if (obstacle := use.obstacle())]


def without_own_training_transforms(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a config without the transforms of `is_own_training_transform`."""
    result = copy.deepcopy(dict(config))
    # The last one of a list first: the places of the others stay as they are.
    for use in reversed(own_training_transforms(config)):
        node: Any = result
        for part in use.place[:-1]:
            node = node[part]
        del node[use.place[-1]]
    return result


def own_training_transforms(config: Mapping[str, Any]) -> list[Use]:
    """Returns the transforms of training sections that are named by the path of their class."""
    return [use for use in uses(config) if use.is_own_training_transform]


def with_current_types(value: Any) -> Any:
    """Returns plain data with the current name for each class that an older version wrote."""
    if isinstance(value, Mapping):
        return {
            key: current_type(entry)
            if key == "type" and isinstance(entry, str)
            else with_current_types(entry)
            for key, entry in value.items()
        }
    return [with_current_types(entry) for entry in value] if isinstance(value, list) else value


def _why_not(name: str) -> str:
    if ":" in name:
        return (
            "is the path of a class, not a registered name. Register it as an entry point of "
            f"{ENTRY_POINT_GROUP}."
        )
    return (
        f"has no entry point of its own in {ENTRY_POINT_GROUP}.{did_you_mean(name, installed())} "
        "Install the distribution that registers it."
    )
