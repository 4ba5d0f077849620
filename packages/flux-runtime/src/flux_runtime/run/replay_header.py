"""What a replay must know of a run: what it was made with, and how to make the same again."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flux_core.bundle import DescribedBundle

from ..control.policy_source import ChunkSource, PolicySource
from ..control.realtime_session import RealtimeSession, realtime_loop_setup
from ..control.session import Session, loop_setup
from ..engines.status import engine_version
from ..predictions import RecordedSource
from .replay_file import digest_of

MANIFEST_NAME = "manifest.json"
ON_A_SERVER = "on a server"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What must be the same for a replay to be the same bit for bit.

    Attributes:
        machine: the model of its CPU.
        engine: its name; 'none' without a network.
        engine_version: of its libraries and, if it uses one, of the card.
        threads: of the network on the CPU.
        bundle: file -> SHA-256; empty without a network.
    """

    machine: str
    engine: str
    engine_version: str
    threads: int
    bundle: Mapping[str, str]

    def as_data(self) -> dict[str, Any]:
        """Returns plain data."""
        return asdict(self)

    def differences(self, now: Identity) -> dict[str, str]:
        """Returns what is different now, as 'recorded -> now'."""
        found = {
            name.replace("_", " "): f"{getattr(self, name)} -> {getattr(now, name)}"
            for name in ("machine", "engine", "engine_version", "threads")
            if getattr(self, name) != getattr(now, name)
        }
        files = sorted(
            name
            for name in self.bundle.keys() | now.bundle.keys()
            if self.bundle.get(name) != now.bundle.get(name)
        )
        if files:
            found["bundle"] = f"other {', '.join(files)}"
        return found


def identity_of(
    bundle: DescribedBundle | None, engine: str, threads: int, *, is_remote: bool = False
) -> Identity:
    """Returns the identity of a run on this machine, or with an engine on another one."""
    files: dict[str, str] = {}
    if bundle is not None:
        files = {name: entry.sha256 for name, entry in bundle.manifest.files.items()}
        files[MANIFEST_NAME] = bundle.sha256
    return Identity(
        machine=cpu_model(),
        engine=engine,
        engine_version=ON_A_SERVER if is_remote else engine_version(engine),
        threads=threads,
        bundle=files,
    )


def replay_header(session: Session | RealtimeSession, seed: int) -> dict[str, object]:
    """Returns the header of an episode's replay file, as plain data."""
    options = session.options
    if isinstance(session, RealtimeSession):
        spec = session.driver.spec
        setup = realtime_loop_setup(session.limits, session.settings)
    else:
        spec = session.robot.spec
        setup = loop_setup(session)
    is_remote = options.remote is not None
    identity = identity_of(
        session.bundle, session.source.engine, options.threads, is_remote=is_remote
    )
    return {
        "flux": flux_version(),
        "clock": session.clock,
        "identity": identity.as_data(),
        "seed": seed,
        "prompt": session.prompt,
        "cameras": list(session.source.cameras),
        "control_hz": session.spec.control_hz,
        "joint_names": session.spec.joint_names,
        "robot_spec": asdict(spec),
        "decoder": decoder_digests(session.source),
        "options": _option_data(session),
        "loop": setup,
    }


def decoder_digests(source: ChunkSource) -> dict[str, str]:
    """Returns the SHA-256 of the arrays that turn actions into robot units; none without them."""
    if not isinstance(source, PolicySource | RecordedSource):
        return {}
    return {name: digest_of(array) for name, array in source.decoder_arrays().items()}


def _option_data(session: Session | RealtimeSession) -> dict[str, object]:
    """Returns the options with which the policy is opened again."""
    options, bundle = session.options, session.bundle
    is_here = bundle is not None and options.remote is None
    return {
        "robot": options.robot,
        "bundle": str(Path(bundle.where).resolve()) if bundle is not None and is_here else None,
        "remote": None if options.remote is None else options.remote.url,
        "task": options.task,
        "all_tasks": isinstance(session, RealtimeSession) and session.is_real,
        "policy": options.policy,
        "accept_versions": list(options.accept_versions),
        "changes": asdict(options.changes),
    }


def flux_version() -> str:
    """Returns the version of this package."""
    try:
        return version("flux-runtime")
    except PackageNotFoundError:
        return "unknown"


def cpu_model() -> str:
    """Returns the model of this machine's CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
