"""Converts LeRobot datasets to other versions, merges several into one, and splits one.

Videos are copied without encoding them again, so no pixel changes, unless it is asked for.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flux_core.errors import DataError, UsageError

from ..lerobot.dataset import LeRobotDataset, LeRobotV3, open_lerobot
from ..lerobot.metadata import flat_names, is_depth_map
from ..lerobot.new_folder import check_new, missing_folders, remove_empty
from ..lerobot.stored_columns import is_vector
from ..lerobot.writer import WRITERS
from .completeness import check_complete
from .kept_files import kept_files, merged_feature, more_info
from .reencode import ReencodedVideos
from .source_episodes import read_episodes
from .source_features import SourceFeatures, common_types
from .text_tables import merged_tables, whole_tables

SHARE = r"0?\.\d+|1\.0*"
"""A share needs a decimal point, because a whole number is an episode."""

Advance = Callable[[int, int], None]
"""Called with the number of episodes written so far, and the number of all."""


def convert(
    roots: Sequence[Path],
    out: Path,
    version: str,
    advance: Advance = lambda *_: None,
    *,
    reencode: bool = False,
) -> dict[str, Any]:
    """Writes the episodes of one or several datasets, in order, as one dataset of `version`.

    A single dataset keeps its tables, its other keys of info.json, other files in `meta/` and its
    README. Several keep what all agree on.

    Args:
        roots: the datasets.
        out: a new folder.
        version: v2.1 or v3.0.
        advance: called with the number of episodes written so far, and the number of all.
        reencode: whether to encode the videos again instead of copying them.

    Raises:
        DataError: the datasets differ in rate, robot or features, one is damaged, or its rows and
            videos contradict each other.
    """
    sources = [open_lerobot(root) for root in roots]
    _check_alike(sources)
    for source in sources:
        check_complete(source)
    parts = [Part(source, range(source.num_episodes)) for source in sources]
    _check_alike(sources)  # with the columns that info.json does not list
    return _write(
        parts, out, version, advance, has_same_episodes=len(parts) == 1, reencode=reencode
    )


def split(
    root: Path,
    out: Path,
    parts: Mapping[str, str],
    *,
    seed: int = 0,
    advance: Advance = lambda *_: None,
    reencode: bool = False,
) -> dict[str, dict[str, Any]]:
    """Writes disjoint sets of a dataset's episodes to `out`/name; after an error none is left.

    Args:
        root: the dataset.
        out: the folder for the parts.
        parts: name -> a share like '0.9' of the episodes, drawn with `seed`, or episodes like
            '0-39' or '3,7,10-12'.
        seed: seed of the random draw.
        advance: called with the number of episodes written so far, and the number of all.
        reencode: whether to encode the videos again instead of copying them.
    """
    source = open_lerobot(root)
    check_complete(source)
    positions = choose_parts(source, parts, seed)
    total, done = sum(len(chosen) for chosen in positions.values()), 0
    for name in positions:
        check_new(out / name)
    reports: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as undo:
        undo.callback(remove_empty, missing_folders(out))
        for name, chosen in positions.items():
            before = done

            def count(part: int, _: int, before: int = before) -> None:
                advance(before + part, total)

            part, version = Part(source, chosen), version_of(source)
            reports[name] = _write(
                [part], out / name, version, count, has_same_episodes=False, reencode=reencode
            )
            undo.callback(shutil.rmtree, out / name, ignore_errors=True)
            done += len(chosen)
        undo.pop_all()
    return reports


def version_of(source: LeRobotDataset) -> str:
    """Returns the version to write for a dataset of this version: v2.0 becomes v2.1."""
    return "v3.0" if isinstance(source, LeRobotV3) else "v2.1"


def choose_parts(
    source: LeRobotDataset, parts: Mapping[str, str], seed: int
) -> dict[str, Sequence[int]]:
    """Returns the positions of each part's episodes.

    Raises:
        UsageError: a part is malformed or empty, or parts overlap.
    """
    others = [name for name, text in parts.items() if not re.fullmatch(SHARE, text)]
    if not others:
        return _drawn(source.num_episodes, {k: float(v) for k, v in parts.items()}, seed)
    if len(others) < len(parts):
        text = f"{others[0]}={parts[others[0]]}"
        raise UsageError(f"{text}: expected a share like 0.9, as other parts have")
    position_of = {int(index): i for i, index in enumerate(source.episode_indices)}
    chosen: dict[str, Sequence[int]] = {}
    taken: dict[int, str] = {}
    for name, text in parts.items():
        indices = _indices(f"{name}={text}", text, max(position_of))
        for index in indices:
            if index not in position_of:
                raise UsageError(f"{name}={text}: expected existing episodes, got {index}")
            if index in taken:
                raise UsageError(
                    f"{name}={text}: expected disjoint parts, got episode {index} of "
                    f"{taken[index]!r} again"
                )
            taken[index] = name
        chosen[name] = [position_of[index] for index in indices]
    return chosen


def _indices(where: str, text: str, largest: int) -> list[int]:
    """Returns the episodes, at least one, that a text like '3,7,10-12' names."""
    if not re.fullmatch(r"\d{1,18}(-\d{1,18})?(,\d{1,18}(-\d{1,18})?)*", text):
        raise UsageError(f"{where}: expected a share like 0.9 or episodes like 0-39,45")
    indices: list[int] = []
    for piece in text.split(","):
        first, _, last = piece.partition("-")
        if int(last or first) > largest:  # before building a possibly huge list
            raise UsageError(
                f"{where}: expected episodes up to {largest}, the last, got {int(last or first)}"
            )
        indices += range(int(first), int(last or first) + 1)
    if not indices:
        raise UsageError(f"{where}: expected at least one episode, got none")
    return indices


def _drawn(num_episodes: int, shares: Mapping[str, float], seed: int) -> dict[str, Sequence[int]]:
    if sum(shares.values()) > 1 + 1e-9:
        raise UsageError(
            f"shares: expected a sum of at most 1, got {sum(shares.values()):g}. Lower one of them"
        )
    order = np.random.default_rng(seed).permutation(num_episodes)
    ends = np.round(np.cumsum(list(shares.values())) * num_episodes).astype(int)
    chosen: dict[str, Sequence[int]] = {}
    for name, first, last in zip(shares, [0, *ends[:-1]], ends, strict=True):
        if first == last:
            raise UsageError(
                f"{name}={shares[name]:g}: expected at least one of {num_episodes} episodes, got "
                "none. Raise the share"
            )
        chosen[name] = sorted(order[first:last].tolist())
    return chosen


class Part:
    """Some episodes of a dataset that are to be written."""

    def __init__(self, source: LeRobotDataset, positions: Sequence[int]) -> None:
        """Finds what the files of the episodes hold, and adds it to the dataset's features.

        Raises:
            DataError: a file cannot be read, or a column cannot be copied.
        """
        self.source, self.positions = source, positions
        found = SourceFeatures(source, positions)
        source.info["features"] = found.features
        self.types, self.schema = found.types, found.schema


def _write(
    parts: Sequence[Part],
    out: Path,
    version: str,
    advance: Advance,
    *,
    has_same_episodes: bool,
    reencode: bool,
) -> dict[str, Any]:
    """Writes the episodes; a single dataset's episodes may keep their numbers."""
    sources, first = [part.source for part in parts], parts[0].source
    types = common_types([part.types for part in parts])
    tables = merged_tables(sources) if len(parts) > 1 else whole_tables(first, version)
    total, done = sum(len(part.positions) for part in parts), 0
    writer = WRITERS[version](
        out,
        fps=first.fps,
        robot_type=first.info.get("robot_type"),
        features=_features(sources),
        more_info=more_info(sources, has_same_episodes=has_same_episodes),
        tasks=tables.tasks,
        more_schema=parts[0].schema,
    )
    with writer:
        for name, path in kept_files(
            sources, version, tables.handled, has_same_episodes=has_same_episodes
        ):
            writer.keep(path, name)
        for name, write in tables.files.items():
            writer.make(name, write)
        encoder = ReencodedVideos(writer.staging("reencoded")) if reencode else None
        for part, numbers in zip(parts, tables.numbers, strict=True):
            episodes = read_episodes(
                part.source, part.positions, renumber=numbers, types=types, reencode=encoder
            )
            for episode in episodes:
                writer.add(episode)
                done += 1
                advance(done, total)
    frames = sum(int(part.source.lengths[list(part.positions)].sum()) for part in parts)
    report = {"out": str(out), "num_episodes": total, "num_frames": frames}
    return report if encoder is None else {**report, "reencoded": encoder.report()}


def _features(sources: Sequence[LeRobotDataset]) -> dict[str, Any]:
    return {
        key: merged_feature([source.info["features"][key] for source in sources])
        for key in sources[0].info["features"]
    }


def _check_alike(sources: Sequence[LeRobotDataset]) -> None:
    first = sources[0]
    for other in sources[1:]:
        pairs: dict[str, tuple[Any, Any]] = {
            "fps": (first.fps, other.fps),
            "robot_type": (first.info.get("robot_type"), other.info.get("robot_type")),
        }
        keys = dict.fromkeys((*first.info["features"], *other.info["features"]))
        for key in keys:
            pairs[f"features.{key}"] = (_kind(first, key), _kind(other, key))
            pairs[f"features.{key}: depth"] = (_is_depth(first, key), _is_depth(other, key))
        for name, (expected, found) in pairs.items():
            if expected != found:
                raise DataError(
                    f"{other.root}: {name}: expected {expected}, as in {first.root}, got {found}"
                )
        for key in keys:
            _check_names(first, other, key)


def _kind(source: LeRobotDataset, key: str) -> tuple[Any, ...] | None:
    feature = source.info["features"].get(key)
    return None if feature is None else (feature["dtype"], tuple(feature["shape"]))


def _is_depth(source: LeRobotDataset, key: str) -> bool:
    feature = source.info["features"].get(key)
    return feature is not None and is_depth_map(feature)


def _check_names(first: LeRobotDataset, other: LeRobotDataset, key: str) -> None:
    """Refuses joints with different names; a dataset may be without names.

    A single number with several names is one of them: its meaning would change.
    """
    expected, found = _names(first, key), _names(other, key)
    if len(expected) != len(found) and expected and found:
        raise DataError(
            f"{other.root}: features.{key}: names: expected {expected}, as in {first.root}, got "
            f"{found}. Make them equal in meta/info.json"
        )
    for dim, (ours, theirs) in enumerate(zip(expected, found, strict=False)):
        if ours != theirs:
            raise DataError(
                f"{other.root}: features.{key}: dimension {dim}: expected {ours!r}, as in "
                f"{first.root}, got {theirs!r}. If they mean the same, rename it in meta/info.json"
            )


def _names(source: LeRobotDataset, key: str) -> list[str]:
    """Returns the names of the dimensions, or of a single number's values; else none."""
    feature = source.info["features"][key]
    names = flat_names(feature.get("names"))
    is_named = [len(names)] == feature["shape"] or feature["shape"] == [1]
    return names if is_vector(feature) and is_named else []
