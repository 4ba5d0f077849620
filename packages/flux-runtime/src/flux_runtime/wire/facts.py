"""What a server says of its policy: all that a robot needs to know without the bundle's files.

A server is trusted no more than a file: what it says passes the checks that a bundle passes.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from flux_core.bundle import (
    MANIFEST_NAME,
    Bundle,
    Manifest,
    check_config,
    manifest_data,
    parse_manifest,
)
from flux_core.config import bind
from flux_core.errors import BundleError, ConfigError, RobotError
from flux_core.robots import (
    ROBOT_SPECS,
    RobotSpec,
    carried_robot,
    check_switches,
    robot_spec,
)
from flux_core.transforms import DenormalizeActions

from .. import __version__
from .bounds import WireError, shown
from .fields import expect, flag_of, object_of, text_of

_MODEL_KEYS = ("rtc_training_config", "actions_per_token")
_DATASET_KEYS = (
    *("type", "transforms", "action_window_size", "action_key", "state_key"),
    *("window_start_idx", "supervise_terminal_padding"),
)
_MAX_NAME = 100


@dataclass(frozen=True, kw_only=True)
class PolicyFacts:
    """What a server says of its policy.

    `manifest` and `config` stand for those of a bundle wherever its files are not needed: the
    checks before a run, the deployment check, the agreement with the training, and chunking.

    Attributes:
        manifest: manifest.json, with the changes of the server's options.
        config: of config.json: `inference`, and what chunking and agreement read of the rest.
        sha256: of the bytes of manifest.json: two servers with the same have the same bundle.
        engine: its name.
        can_continue: whether chunks can continue each other on it.
        server_version: of flux-runtime on the server.
        spec: the robot that the policy was made for.
    """

    manifest: Manifest = field(repr=False)
    config: dict[str, Any] = field(repr=False)
    sha256: str
    engine: str
    can_continue: bool
    server_version: str
    spec: RobotSpec = field(repr=False)

    @classmethod
    def of(cls, bundle: Bundle, engine: str, can_continue: bool) -> Self:
        """Returns the facts of an opened bundle.

        Raises:
            BundleError: its manifest cannot be read, or its robot is unknown.
        """
        try:
            content = bundle.path(MANIFEST_NAME).read_bytes()
        except OSError as error:
            raise BundleError(
                f"{bundle.directory}: {MANIFEST_NAME}: cannot be read ({error.strerror})"
            ) from error
        try:
            spec = _spec(bundle.config, bundle.manifest)
        except (ConfigError, RobotError) as error:
            raise BundleError(f"config.json: {error}. Export the bundle again.") from error
        return cls(
            manifest=bundle.manifest,
            config=_needed(bundle.config),
            sha256=hashlib.sha256(content).hexdigest(),
            engine=engine,
            can_continue=can_continue,
            server_version=__version__,
            spec=spec,
        )

    @property
    def action_dim(self) -> int:
        """The width of actions in robot units; that of noise is the manifest's."""
        return self.spec.action_dim

    @property
    def binary_mask(self) -> NDArray[np.bool_]:
        """(action_dim,) True where an action is 0 or 1, which is never interpolated."""
        inference = self.config.get("inference")
        section = inference.get("denormalize_action") if isinstance(inference, Mapping) else None
        undo: DenormalizeActions = bind(DenormalizeActions, section or {}, "denormalize_action")
        return undo.binary_mask(self.action_dim)

    @property
    def trained_delays(self) -> tuple[int, ...]:
        """Of real-time chunking, in control steps."""
        from ..chunking import trained_delays

        facts: Any = self  # its manifest and config are all that this reads of a bundle
        return trained_delays(facts)

    def as_data(self) -> dict[str, Any]:
        """Returns plain data for the first message of a connection.

        The manifest has the cameras and the rate, too; they are repeated for people, and for
        clients of openpi.
        """
        return {
            "server": {"name": "flux-runtime", "version": self.server_version},
            "sha256": self.sha256,
            "engine": self.engine,
            "can_continue": self.can_continue,
            "robot": self.spec.name,
            "joint_names": list(self.spec.joint_names),
            "units": list(self.spec.units),
            "state_names": list(self.spec.state_names),
            "state_units": list(self.spec.state_units),
            "cameras": list(self.manifest.cameras),
            "control_hz": self.manifest.control_hz,
            "action_horizon": self.manifest.action_horizon,
            "action_dim": self.action_dim,
            "trained_delays": list(self.trained_delays),
            "manifest": manifest_data(self.manifest),
            "config": self.config,
        }

    @classmethod
    def from_data(cls, data: object, accept_versions: Collection[str] = ()) -> Self:
        """Returns the facts in a server's first message.

        Args:
            data: as `packing.unpack` returns it.
            accept_versions: distributions whose components may have another version here than on
                the server; as for a bundle.

        Raises:
            WireError: a bundle with such files would be refused, or the facts contradict
                themselves.
        """
        _check_plain(data)
        found = expect("facts", data, _KEYS)
        server = expect("facts.server", found["server"], ("name", "version"))
        try:
            manifest = parse_manifest(found["manifest"])
            config = object_of("facts.config", found["config"])
            check_config(config, manifest, accept_versions)
            facts = cls(
                manifest=manifest,
                config=_needed(config),
                sha256=_sha256(found["sha256"]),
                engine=text_of("facts.engine", found["engine"], _MAX_NAME),
                can_continue=flag_of("facts.can_continue", found["can_continue"]),
                server_version=text_of("facts.server.version", server["version"], _MAX_NAME),
                spec=_carried_spec(config, manifest),
            )
            check_switches(facts.binary_mask, facts.spec)
            stated = facts.as_data()
        except WireError:
            raise
        except (BundleError, ConfigError, RobotError) as error:
            raise WireError(f"server: {error}") from error
        _check_controls(facts)
        for name in _REPEATED:
            if stated[name] != found[name]:
                raise WireError(
                    f"server: facts.{name}: expected {shown(stated[name])} as in its manifest and "
                    f"config, got {shown(found[name])}. Use a server of the same version as this "
                    f"machine's flux-runtime"
                )
        return facts

    def difference(self, now: PolicyFacts) -> str:
        """Returns in what the policy differs from that of `now`, in a few words; '' if in nothing.

        Two policies are the same if a robot may go on with the other one in the middle of a run.
        """
        if self.sha256 != now.sha256:
            return f"another bundle (sha256 {self.sha256[:12]}…, now {now.sha256[:12]}…)"
        before, after = self.as_data(), now.as_data()
        changed = [name for name in _KEYS if name != "server" and before[name] != after[name]]
        return f"another {changed[0]}" if changed else ""


def _spec(config: Mapping[str, Any], manifest: Manifest) -> RobotSpec:
    return carried_robot(config) or robot_spec(manifest.robot)


def _carried_spec(config: Mapping[str, Any], manifest: Manifest) -> RobotSpec:
    """Returns the robot without importing anything that a stranger names."""
    carried = carried_robot(config) or ROBOT_SPECS.get(manifest.robot)
    if carried is None:
        raise BundleError(
            f"config.json: inference.robot: expected the description of {shown(manifest.robot)}, "
            "got none. Export the bundle again, and start the server with it"
        )
    return carried


def _needed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what a robot needs of config.json: of the training, how its data were read."""
    needed: dict[str, Any] = {}
    if isinstance(config.get("inference"), Mapping):
        needed["inference"] = dict(config["inference"])
    model = config.get("model")
    if isinstance(model, Mapping):
        needed["model"] = {name: model[name] for name in _MODEL_KEYS if name in model}
    loader = config.get("train_dataloader")
    mixture = loader.get("dataset") if isinstance(loader, Mapping) else None
    if isinstance(mixture, Mapping) and "datasets" in mixture:
        kept: dict[str, Any] = {"datasets": _settings_of(mixture["datasets"])}
        if "statistic_name" in mixture:
            kept["statistic_name"] = mixture["statistic_name"]
        needed["train_dataloader"] = {"dataset": kept}
    return needed


def _settings_of(datasets: Any) -> Any:
    """Returns datasets of a training, alone, listed or in groups: how they are read, not where."""
    if isinstance(datasets, list | tuple):
        return [_settings_of(member) for member in datasets]
    if not isinstance(datasets, Mapping):
        return datasets
    if "transforms" in datasets:
        return {name: datasets[name] for name in _DATASET_KEYS if name in datasets}
    return {name: _settings_of(group) for name, group in datasets.items()}


def _check_controls(facts: PolicyFacts) -> None:
    """Refuses texts that would move the cursor of the terminal on which they are shown."""
    manifest = facts.manifest
    texts = {
        "engine": (facts.engine,),
        "server.version": (facts.server_version,),
        "robots": manifest.robots,
        "cameras": manifest.cameras,
        "prompt": (manifest.prompt,),
        "tasks": (*manifest.tasks, *manifest.tasks.values()),
    }
    for name, values in texts.items():
        for value in values:
            if any(unicodedata.category(character) == "Cc" for character in value):
                raise WireError(f"facts.{name}: expected no control characters, got {shown(value)}")


def _sha256(value: object) -> str:
    text = text_of("facts.sha256", value, 64)
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise WireError(f"facts.sha256: expected 64 hexadecimal digits, got {shown(text)}")
    return text


def _check_plain(data: object) -> None:
    """Refuses what JSON could not have held, such as arrays, bytes and NaN."""
    pending = [data]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise WireError(f"facts: expected finite numbers, got {value}")
        elif value is not None and type(value) not in (bool, int, str):
            raise WireError(f"facts: expected plain values, got a {type(value).__name__}")


_REPEATED = (
    *("robot", "joint_names", "units", "state_names", "state_units", "cameras", "control_hz"),
    *("action_horizon", "action_dim", "trained_delays"),
)
_KEYS = ("server", "sha256", "engine", "can_continue", *_REPEATED, "manifest", "config")
