"""`flux-runtime replay`: runs recorded episodes again and compares every command."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flux_core.agreement import Changes
from flux_core.bundle import MANIFEST_NAME, DescribedBundle
from flux_core.config import bind
from flux_core.errors import DataError, UsageError
from flux_core.robots import RobotSpec

from ..control.latency import StageTimes
from ..control.policy_source import HoldSource, PolicySource
from ..control.session import RunOptions, open_policy
from ..run.replay_header import Identity, decoder_digests, flux_version, identity_of
from .comparison import EpisodeComparison
from .lockstep import replay_lockstep
from .realtime import replay_session
from .recorded import RecordedReplay, read_replay, recordings_in


@dataclass(frozen=True, kw_only=True)
class ReplayOptions:
    """The options of the command line; see `flux-runtime replay --help`.

    Attributes:
        directory: of a recording, or one of its `.replay` files.
        episode: its number; None for all.
        engine: instead of the recorded one.
        bundle: likewise.
        threads: likewise.
        recorded_chunks: whether the recorded chunks are executed, so that no bundle is needed.
        accept_versions: distributions whose components may have another version than at export.
    """

    directory: Path
    episode: int | None = None
    engine: str | None = None
    bundle: Path | None = None
    threads: int | None = None
    recorded_chunks: bool = False
    accept_versions: Collection[str] = ()


@dataclass(frozen=True, kw_only=True)
class OpenedSource:
    """A source of chunks, and what it is made with."""

    source: PolicySource | HoldSource
    identity: Identity


def replay(
    options: ReplayOptions, on_episode: Callable[[dict[str, object]], None] = lambda episode: None
) -> dict[str, object]:
    """Replays the recorded episodes, and returns the JSON report of the command.

    `ok` is false if something is different although machine, engine, threads and bundle are those
    of the recording.

    Args:
        options: the options of the command line.
        on_episode: called with the part of the report about each episode.

    Raises:
        FluxError: a recording is incomplete, or its bundle cannot be opened.
    """
    paths = _chosen(options)
    opened: dict[str, OpenedSource] = {}
    episodes: list[dict[str, object]] = []
    for path in paths:
        recorded = read_replay(path)
        key = json.dumps([recorded.header[name] for name in ("options", "identity", "robot_spec")])
        if key not in opened:
            opened[key] = _open(recorded, options)
        episode = _replay_one(recorded, opened[key], options)
        episodes.append(episode)
        on_episode(episode)
    return {"directory": str(options.directory), "ok": _all(episodes, "ok"), "episodes": episodes}


def _all(episodes: Iterable[dict[str, object]], name: str) -> bool:
    return all(episode[name] for episode in episodes)


def _chosen(options: ReplayOptions) -> list[Path]:
    paths = recordings_in(options.directory)
    if options.episode is None:
        return paths
    name = f"episode_{options.episode:06d}.replay"
    found = [path for path in paths if path.name == name]
    if not found:
        raise UsageError(
            f"--episode {options.episode}: expected one of {len(paths)} recorded episodes, got no "
            f"{name} in {options.directory}. The first one has the number 0."
        )
    return found


def _replay_one(
    recorded: RecordedReplay, opened: OpenedSource, options: ReplayOptions
) -> dict[str, object]:
    header = recorded.header
    comparison = EpisodeComparison(joint_names=header["joint_names"])
    if recorded.is_realtime:
        replay_session(
            recorded,
            opened.source,
            comparison,
            uses_recorded_chunks=options.recorded_chunks,
        )
    else:
        replay_lockstep(recorded, opened.source, comparison)
    changes = {}
    if not options.recorded_chunks:
        changes = Identity(**header["identity"]).differences(opened.identity)
        if not _server(recorded):  # which has its own decoder
            comparison.add_decoder(header["decoder"], decoder_digests(opened.source))
    return {
        "file": recorded.path.name,
        "seed": header["seed"],
        "clock": header["clock"],
        "outcome": recorded.end["outcome"],
        "reason": recorded.end["reason"],
        "ok": comparison.is_identical or bool(changes),
        "made_with": changes,
        "flux": {"recorded": header["flux"], "now": flux_version()},
        **comparison.as_data(),
    }


def _open(recorded: RecordedReplay, options: ReplayOptions) -> OpenedSource:
    """Opens the recorded policy, or the one that the options name."""
    header = recorded.header
    data: dict[str, Any] = header["options"]
    identity = Identity(**header["identity"])
    spec: RobotSpec = bind(RobotSpec, header["robot_spec"], "robot_spec")
    _check_options(recorded, options, has_network=data["policy"] == "bundle")
    if data["policy"] == "hold" or options.recorded_chunks:
        return OpenedSource(
            source=HoldSource(spec), identity=identity_of(None, "none", identity.threads)
        )
    run_options = RunOptions(
        robot=data["robot"],
        bundle=_bundle(recorded, options),
        task=data["task"],
        engine=options.engine or identity.engine,
        threads=options.threads or identity.threads,
        accept_versions=[*data["accept_versions"], *options.accept_versions],
        changes=Changes(**data["changes"]),
    )
    tasks = None if data.get("all_tasks") else ()
    policy = open_policy(run_options, spec, StageTimes(), tasks)
    assert policy is not None
    _check_served(recorded, identity, policy.bundle)
    now = identity_of(policy.bundle, policy.source.engine, run_options.threads)
    return OpenedSource(source=policy.source, identity=now)


def _server(recorded: RecordedReplay) -> str | None:
    """Returns the address of the server that inferred the chunks; None if none did."""
    return recorded.header["options"].get("remote")


def _check_served(recorded: RecordedReplay, then: Identity, bundle: DescribedBundle) -> None:
    """Refuses another bundle than the server's: no chunk could be the same."""
    expected = then.bundle.get(MANIFEST_NAME, "")
    if _server(recorded) and bundle.sha256 != expected:
        raise DataError(
            f"{recorded.path}: --bundle: expected the server's bundle, whose manifest.json has the "
            f"sha256 {expected[:16]}..., got {bundle.where} with {bundle.sha256[:16]}..."
        )


def _bundle(recorded: RecordedReplay, options: ReplayOptions) -> Path:
    url = _server(recorded)
    if options.bundle is None and url:
        chunks = "with --recorded-chunks, or " if recorded.is_realtime else ""
        raise DataError(
            f"{recorded.path}: the policy of the run was at {url}. Replay it {chunks}with "
            f"--bundle DIR, which names the bundle of that server"
        )
    bundle = options.bundle or Path(recorded.header["options"]["bundle"])
    if options.bundle is None and not bundle.is_dir():
        raise DataError(
            f"{recorded.path}: expected the bundle of the run in {bundle}, got no such directory. "
            f"Name it with --bundle DIR."
        )
    return bundle


def _check_options(recorded: RecordedReplay, options: ReplayOptions, *, has_network: bool) -> None:
    """Refuses options that cannot have an effect."""
    given = {
        "--engine": options.engine,
        "--bundle": options.bundle,
        "--threads": options.threads,
    }
    names = [name for name, value in given.items() if value is not None]
    if names and options.recorded_chunks:
        raise UsageError(
            f"--recorded-chunks: expected no options for a network, got {', '.join(names)}. Leave "
            f"one of them out."
        )
    if names and not has_network:
        raise UsageError(
            f"{', '.join(names)}: expected a recording of a run with a bundle, got one of "
            f"--policy hold ({recorded.path}). Leave the options out."
        )
    if options.recorded_chunks and not recorded.is_realtime:
        raise UsageError(
            f"--recorded-chunks: expected a recording in real time, got one on simulated time "
            f"({recorded.path}). Leave the option out."
        )
