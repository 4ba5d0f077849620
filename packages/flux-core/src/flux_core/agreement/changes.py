"""What may change after training: how many steps are executed, task texts, topics and RTC.

`flux-export` writes the changes into the bundle; `flux-runtime run` applies them to one run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..config import bind, did_you_mean
from ..deployment import InferenceRunner
from ..errors import ConfigError, UsageError
from ..rtc import RTCConfig


@dataclass(frozen=True, kw_only=True)
class Changes:
    """Changes to a robot section. None, or an empty mapping, keeps what the section says.

    Attributes:
        execution_horizon: steps that are executed before the next chunk.
        action_chunk: steps of each predicted chunk that may be used.
        tasks: key -> task text; replaces all texts.
        topics: field of the operator -> value.
        rtc: fields of `rtc_config` that change, or `{"enabled": False}`.
    """

    execution_horizon: int | None = None
    action_chunk: int | None = None
    tasks: Mapping[str, str] = field(default_factory=dict[str, str])
    topics: Mapping[str, object] = field(default_factory=dict[str, object])
    rtc: Mapping[str, object] = field(default_factory=dict[str, object])

    def __bool__(self) -> bool:
        return bool(self.as_data())

    def apply(self, inference: InferenceRunner) -> InferenceRunner:
        """Returns the section with the changes.

        Raises:
            UsageError: a value is wrong; the message begins with the option. How values fit the
                network is checked by `check_agreement`.
        """
        fields: dict[str, Any] = {
            name: value
            for name in ("execution_horizon", "action_chunk")
            if (value := getattr(self, name)) is not None
        }
        if self.tasks:
            fields["task_descriptions"] = dict(self.tasks)
        if self.topics:
            fields["operator"] = self._operator(inference)
        if self.rtc:
            fields["rtc_config"] = _changed(
                inference.rtc_config or RTCConfig(), self.rtc, "--rtc", "rtc_config"
            )
        return dataclasses.replace(inference, **fields) if fields else inference

    @classmethod
    def between(cls, wanted: InferenceRunner, current: InferenceRunner, horizon: int) -> Changes:
        """Returns the changes that turn the section `current` into `wanted`, as far as they can.

        Args:
            wanted: a robot section.
            current: another one of the same robot.
            horizon: steps that the network predicts.
        """
        available, steps = horizon, dict[str, int]()
        for name in ("action_chunk", "execution_horizon"):
            available = getattr(wanted, name) or available
            if getattr(wanted, name) != getattr(current, name):
                steps[name] = available
        have = current.rtc_config or RTCConfig(enabled=False)
        want = wanted.rtc_config or dataclasses.replace(have, enabled=False)
        return cls(
            **steps,
            tasks=(
                wanted.task_descriptions
                if dict(wanted.task_descriptions) != dict(current.task_descriptions)
                else {}
            ),
            topics=_different(
                getattr(wanted, "operator", None), getattr(current, "operator", None)
            ),
            rtc=_different(want, have),
        )

    def as_options(self) -> list[str]:
        """Returns the options of `flux-export` that make the changes."""
        options = [
            *_option("--execution-horizon", self.execution_horizon),
            *_option("--action-chunk", self.action_chunk),
        ]
        for name, values in (
            ("--tasks", self.tasks),
            ("--topic", self.topics),
            ("--rtc", self.rtc),
        ):
            pairs = [f"{key}={value}" for key, value in values.items()]
            options += [name, *pairs] if pairs else []
        return options

    def as_data(self) -> dict[str, Any]:
        """The changes alone, for a report or a bundle's provenance; empty if there are none."""
        found = {
            "execution_horizon": self.execution_horizon,
            "action_chunk": self.action_chunk,
            "task_descriptions": dict(self.tasks),
            "operator": dict(self.topics),
            "rtc_config": dict(self.rtc),
        }
        return {name: value for name, value in found.items() if value not in (None, {})}

    def _operator(self, inference: InferenceRunner) -> object:
        operator = getattr(inference, "operator", None)
        if operator is None:
            raise UsageError(
                f"--topic: expected a robot with an operator, which names ROS topics, got "
                f"{inference.spec.name}. Leave it out"
            )
        return _changed(operator, self.topics, "--topic", "operator")


def _option(name: str, value: int | None) -> list[str]:
    return [] if value is None else [name, str(value)]


def _different(wanted: Any, current: Any) -> dict[str, object]:
    """Returns the fields of `wanted` that `current`, of the same class, has otherwise."""
    if type(wanted) is not type(current) or wanted is None:
        return {}
    names = [each.name for each in dataclasses.fields(wanted)]
    values = {name: getattr(wanted, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(current, name)}


def _changed(section: Any, values: Mapping[str, object], option: str, where: str) -> Any:
    known = [each.name for each in dataclasses.fields(section)]
    for name in values:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UsageError(f"{option}: {type(section).__name__} has no field {name!r}.{hint}")
    current = {name: getattr(section, name) for name in known}
    try:
        return bind(type(section), {**current, **values}, where)
    except ConfigError as error:
        raise UsageError(f"{option}: {error}") from error
