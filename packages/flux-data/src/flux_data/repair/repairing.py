"""Writes a sound dataset from what can be saved of a damaged one.

The survey finds the episodes that may be saved. A stage, a folder of links with sound metadata,
makes an ordinary dataset of them, which `validate` judges, `convert` copies and `validate` judges
again: what those two refuse is left out.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from flux_core.errors import DataError, UsageError

from ..convert.lerobot import convert
from ..lerobot.locations import local_root
from ..lerobot.metadata import read_info
from ..lerobot.new_folder import (
    check_new,
    disk_errors,
    missing_folders,
    partial_folder,
    real_place,
    remove_abandoned,
    remove_empty,
    sync,
)
from ..validate.fault import Fault
from ..validate.rows import validate
from .candidate import Candidate, EpisodesFound
from .notes import Notes
from .stage import Stage, write_stage
from .survey import survey

logger = logging.getLogger("flux.data")

EPISODE = re.compile(r"episode (\d+)\b")
"""How a fault says which episode it is about."""

JUDGED = ("jump",)
"""Faults of episodes that need a person's judgement; the values may be right."""

REENCODABLE = ("video_frames", "video_shift")
"""Contradictions between rows and pictures that a new encoding may resolve."""

STATISTICS = ("stats", "stats_count", "stats_value", "stats_missing", "stats_unknown")
COMPUTED = ("dtype", "episode_tasks", "frame_index", "episode_index", "index", *STATISTICS)
"""What the writer computes anew or stores in the right type, or refuses."""

TOTALS = ("total_episodes", "total_frames", "total_tasks", "total_videos", "total_chunks", "splits")

MAX_NUMBERS = 10
"""The report's line names this many new numbers of episodes."""

Advance = Callable[[str, int, int], None]
"""Called with what is done, the number of episodes done, and the number of all."""


def repair(
    root: Path,
    out: Path,
    *,
    decode: bool = True,
    reencode: bool = False,
    advance: Advance = lambda *_: None,
) -> dict[str, Any]:
    """Writes the episodes of `root` that can be saved to `out`, a dataset without faults.

    Args:
        root: the damaged dataset; it is only read.
        out: a new directory outside `root`.
        decode: whether to decode every picture, before and after copying.
        reencode: whether to encode the videos again, also those that cannot be copied.
        advance: called with 'check', 'write' or 'verify', the number of episodes done and of all.

    Returns:
        `out`, `num_episodes`, `num_frames`, `episodes` (the number in the source of each episode),
        and the lists `left_out`, `corrected` and `remaining` with `file`, `episode`, `message`;
        with `reencode` also `reencoded`, as of `convert`.

    Raises:
        DataError: no episode can be saved, or the result cannot be written.
        UsageError: `out` exists and is not empty, or is inside `root`.
    """
    check_new(out)
    source, out = local_root(root), real_place(out)
    if out.resolve().is_relative_to(source.resolve()):
        raise UsageError(f"{out}: expected a folder outside the dataset. Choose another --out")
    notes = Notes()
    found = survey(source, notes)
    with _hidden_folder(out) as folder:
        work = _Work(found=found, notes=notes, folder=folder, decode=decode, reencode=reencode)
        work.advance = advance
        episodes = work.run()
        with disk_errors(out):
            if out.is_dir():
                out.rmdir()  # it is empty
            os.replace(work.result, out)
            sync(out.parent)
    _note_numbers(found, episodes, notes)
    _note_totals(source, read_info(out), notes)
    return {
        "out": str(out),
        "num_episodes": len(episodes),
        "num_frames": sum(episode.run.length for episode in episodes),
        "episodes": [episode.index for episode in episodes],
        **notes.lists(),
        **work.report,
    }


@contextmanager
def _hidden_folder(out: Path) -> Iterator[Path]:
    """Makes a folder beside `out`, which is removed at the end."""
    place = out.with_name(f"{out.name}.repair")
    folder, missing = partial_folder(place), missing_folders(out.parent)
    try:
        with disk_errors(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            remove_abandoned(place)
            shutil.rmtree(folder, ignore_errors=True)
            # What is known of a video is kept by its path, which must not occur twice.
            inner = folder / secrets.token_hex(8)
            inner.mkdir(parents=True)
        yield inner
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        remove_empty(missing)


class _Work:
    """Leaves out episodes until what remains can be copied and has no faults."""

    def __init__(
        self, *, found: EpisodesFound, notes: Notes, folder: Path, decode: bool, reencode: bool
    ) -> None:
        self.found, self.notes, self.folder = found, notes, folder
        self.decode, self.reencode = decode, reencode
        self.advance: Advance = lambda *_: None
        self.report: dict[str, Any] = {}
        self._encoded: dict[int, tuple[str, str]] = {}
        self._with_stats, self._with_whole, self._num_stages = True, True, 0

    @property
    def result(self) -> Path:
        """The folder of the dataset that is made of the last stage."""
        return self.folder / f"result-{self._num_stages}"

    def run(self) -> Sequence[Candidate]:
        """Writes the result; returns its episodes."""
        episodes = self.found.episodes
        while True:
            stage = self._stage(episodes)
            bad, is_whole = self._judged(stage)
            if is_whole and not bad:
                bad = self._written(stage) or self._verified(stage)
                if not bad:
                    self._note_encoded(stage.episodes)
                    return stage.episodes
                shutil.rmtree(self.result, ignore_errors=True)
            for position, (file, message) in sorted(bad.items()):
                self.notes.left_out(file, message, stage.episodes[position].index)
            episodes = tuple(e for i, e in enumerate(stage.episodes) if i not in bad)

    def _stage(self, episodes: Sequence[Candidate]) -> Stage:
        if not episodes:
            first = next((note for note in self.notes if note.kind == "left_out"), None)
            why = f" ({first.line()})" if first else ""
            raise DataError(f"{self.found.source.root}: expected an episode to save, got none{why}")
        self._num_stages += 1
        folder = self.folder / f"stage-{self._num_stages}"
        with disk_errors(self.result):
            return write_stage(
                self.found,
                episodes,
                folder,
                with_stats=self._with_stats,
                with_whole=self._has_whole_stats(len(episodes)),
            )

    def _has_whole_stats(self, num_episodes: int) -> bool:
        """Whether the whole dataset's statistics may be those of the saved episodes too.

        The writer of v3.0 computes them anew in any case; that of v2.1 only keeps such a file.
        """
        source = self.found.source
        if source.is_v3 or not (source.root / "meta" / "stats.json").is_file():
            return True
        is_kept = self._with_whole and num_episodes == source.info.get("total_episodes")
        if not is_kept and self._with_whole:
            self._with_whole = False
            path = source.root / "meta" / "stats.json"
            self.notes.corrected(path, "not kept, because it is of other episodes")
        return is_kept

    def _judged(self, stage: Stage) -> tuple[dict[int, tuple[str, str]], bool]:
        """Returns the file and message for each episode that cannot be saved, and whether the
        stage's statistics can be used; later stages hold episodes whose pictures were decoded."""
        is_first = self._num_stages == 1
        advance = partial(self.advance, "check")
        faults = validate(stage.folder, decode=self.decode and is_first, advance=advance)
        bad: dict[int, tuple[str, str]] = {}
        is_whole = True
        for fault in faults:
            position = _episode_of(fault)
            file, message = self._in_source(stage, fault)
            if fault.kind in STATISTICS:
                is_whole = self._drop_stats(fault) and is_whole
            if fault.kind in COMPUTED:
                self._note_corrected(stage, file, message, position)
            elif position is None or fault.kind in JUDGED:
                continue  # reported with the result
            elif self.reencode and fault.kind in REENCODABLE:
                # Encoded again, or refused there.
                self._encoded[stage.episodes[position].index] = (file, message)
            elif fault.kind == "video_length":
                self._note_pictures(stage.episodes[position], file, message)
            else:
                bad.setdefault(position, (file, message))
        return bad, is_whole

    def _drop_stats(self, fault: Fault) -> bool:
        """Leaves wrong statistics out of the next stage; returns whether this one can be used."""
        if not fault.file.endswith("/stats.json"):
            self._with_stats = False
            return False
        if self.found.source.is_v3:  # its writer computes them anew
            return True
        self._with_whole = False
        return False

    def _note_encoded(self, episodes: Sequence[Candidate]) -> None:
        for index in (e.index for e in episodes if e.index in self._encoded):
            file, message = self._encoded[index]
            self.notes.corrected(file, f"encoded again: {message}", index)

    def _note_pictures(self, episode: Candidate, file: str, message: str) -> None:
        """Notes pictures after the last row: lost rows, if the metadata counts them."""
        note = self.notes.corrected
        if episode.values.get("length", episode.run.length) != episode.run.length:
            note = self.notes.left_out
        note(file, f"pictures after the last row: {message}", episode.index)

    def _note_corrected(self, stage: Stage, file: str, message: str, position: int | None) -> None:
        if self._num_stages == 1:  # afterwards the numbers are other ones
            index = None if position is None else stage.episodes[position].index
            self.notes.corrected(file, message, index)

    def _written(self, stage: Stage) -> dict[int, tuple[str, str]]:
        """Copies the episodes; returns the first that cannot be copied."""
        num_done = 0

        def count(done: int, total: int) -> None:
            nonlocal num_done
            num_done = done
            self.advance("write", done, total)

        version = "v3.0" if self.found.source.is_v3 else "v2.1"
        try:
            with self._telling_of_source(stage):
                done = convert([stage.folder], self.result, version, count, reencode=self.reencode)
        except DataError as error:
            # Any other error concerns the result, like a full disk.
            if not str(error).startswith(str(stage.folder)) or num_done == len(stage.episodes):
                raise
            file, _, message = stage.in_source(str(error)).partition(": ")
            return {num_done: (file, re.sub(rf"^episode {num_done}[,:] ", "", message))}
        self.report = {key: done[key] for key in ("reencoded",) if key in done}
        return {}

    @contextmanager
    def _telling_of_source(self, stage: Stage) -> Iterator[None]:
        """Puts the source's files in place of the stage's in warnings."""

        def rename(record: logging.LogRecord) -> bool:
            text = stage.in_source(record.getMessage())
            text = text.replace(str(stage.folder), str(self.found.source.root))
            record.msg, record.args = text, ()
            return True

        logger.addFilter(rename)
        try:
            yield
        finally:
            logger.removeFilter(rename)

    def _verified(self, stage: Stage) -> dict[int, tuple[str, str]]:
        """Returns the episodes that are damaged after copying; notes what a person must judge."""
        advance = partial(self.advance, "verify")
        bad: dict[int, tuple[str, str]] = {}
        remaining = []
        for fault in validate(self.result, decode=self.decode, advance=advance):
            position = _episode_of(fault)
            if position is None or fault.kind in JUDGED:
                remaining.append((position, fault))
            else:
                file = str(stage.episodes[position].run.path)
                bad.setdefault(position, (file, f"after copying: {fault.message}"))
        for position, fault in () if bad else remaining:
            file = fault.file.replace(str(self.result), str(self.found.source.root))
            index = None
            if position is not None:
                file, index = str(stage.episodes[position].run.path), stage.episodes[position].index
            self.notes.remaining(file, fault.message, index)
        return bad

    def _in_source(self, stage: Stage, fault: Fault) -> tuple[str, str]:
        return stage.in_source(fault.file), stage.in_source(fault.message)


def _episode_of(fault: Fault) -> int | None:
    """Returns the position of the episode that a fault is about."""
    found = EPISODE.match(fault.where)
    return int(found[1]) if found else None


def _note_numbers(found: EpisodesFound, episodes: Sequence[Candidate], notes: Notes) -> None:
    """Notes the first episodes that have another number in the result."""
    changed = [f"{e.index} is {i}" for i, e in enumerate(episodes) if e.index != i]
    if changed:
        more = f" and {len(changed) - MAX_NUMBERS} more" if len(changed) > MAX_NUMBERS else ""
        message = f"episodes are numbered again: {', '.join(changed[:MAX_NUMBERS])}{more}"
        notes.corrected(found.source.root / "meta", message)


def _note_totals(source: Path, result: Mapping[str, Any], notes: Notes) -> None:
    path, info = source / "meta" / "info.json", read_info(source)
    for key in TOTALS:
        if key in info and key in result and info[key] != result[key]:
            notes.corrected(path, f"{key}: expected {result[key]}, got {info[key]}")
