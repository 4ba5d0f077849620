"""Runs the sessions of the control thread again, through the same control core."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from flux_core.errors import DataError

from ..control.policy_source import HoldSource, PolicySource
from ..engines.core import load_core
from ..realtime import core_settings
from .comparison import OUTPUTS, EpisodeComparison
from .recorded import RecordedReplay


def replay_session(
    recorded: RecordedReplay,
    source: PolicySource | HoldSource,
    comparison: EpisodeComparison,
    *,
    uses_recorded_chunks: bool,
) -> None:
    """Runs an episode with what was recorded, and compares every tick and event. It is one session
    of the control thread, and one more after each pause of the operator.

    Args:
        recorded: the recording.
        source: of the chunks.
        comparison: receives the differences.
        uses_recorded_chunks: whether the recorded chunks are executed instead of inferring them.

    Raises:
        DataError: the core refuses what was recorded.
    """
    events: list[dict[str, Any]] = []
    origin_ns: int | None = None
    for start in recorded.starts:
        core = _started_core(recorded, source, start)
        runner = _SessionRunner(recorded, source, core, comparison, uses_recorded_chunks, origin_ns)
        for ticks in recorded.session_ticks(start["session"]):
            if not runner.run(ticks):
                break
        events += core.drain_events()
        origin_ns = runner.origin_ns
    comparison.add_events(recorded.events, events)


def _started_core(
    recorded: RecordedReplay, source: PolicySource | HoldSource, start: dict[str, Any]
) -> Any:
    try:
        core = _make_core(recorded, source)
        core.start(start)
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{recorded.path}: the control loop refuses the recorded session ({error}). Replay it "
            f"with the version of flux that recorded it."
        ) from error
    return core


def _make_core(recorded: RecordedReplay, source: PolicySource | HoldSource) -> Any:
    core = load_core()
    setup = recorded.header["loop"]
    first = next(recorded.ticks(), None)
    num_cameras = 0 if first is None else first.dtype["frame_captured_ns"].shape[0]
    replay = core.SessionReplay(
        settings=core_settings(setup["settings"]),
        limits=core.SafetyLimits(**setup["limits"]),
        state_dim=len(recorded.start["state"]),
        num_cameras=num_cameras,
        **source.loop_arguments(setup["settings"]["continuation"]),
    )
    for request in recorded.requests.values():
        replay.add_request(request)
    return replay


class _SessionRunner:
    def __init__(
        self,
        recorded: RecordedReplay,
        source: PolicySource | HoldSource,
        core: Any,
        comparison: EpisodeComparison,
        uses_recorded_chunks: bool,
        origin_ns: int | None,
    ) -> None:
        self._recorded = recorded
        self._source = source
        self._core = core
        self._comparison = comparison
        self._uses_recorded_chunks = uses_recorded_chunks
        self.origin_ns = origin_ns

    def run(self, ticks: NDArray[np.void]) -> bool:
        """Runs and compares these ticks, and returns whether the session goes on."""
        if self.origin_ns is None:
            self.origin_ns = int(ticks["deadline_ns"][0])
        times_s = (ticks["deadline_ns"] - self.origin_ns) * 1e-9
        inputs = _with_dtype(ticks, self._core.tick_dtype)
        done = 0
        while done < len(inputs):
            if self._core.has_ended:
                self._comparison.end_early(float(times_s[done]), "has ended")
                return False
            count = self._core.run(inputs[done:])
            part = slice(done, done + count)
            replayed = self._core.drain_ticks()
            self._comparison.add_ticks(inputs[part], replayed, times_s[part], OUTPUTS)
            done += count
            if self._core.waits_for_chunk:
                self._answer()
        return True

    def _answer(self) -> None:
        chunk = self._recorded.chunk(self._core.recorded_ticket)
        rows = chunk.actions if self._uses_recorded_chunks and chunk.rows is None else chunk.rows
        if rows is not None:
            self._core.submit_chunk(rows, chunk.observed_ns)
            return
        if isinstance(self._source, HoldSource) or self._uses_recorded_chunks:
            index = chunk.request["index"]
            raise DataError(
                f"{self._recorded.path}: expected the rows of chunk {index}, got no record of them."
            )
        inputs = self._source.encode(chunk.observation)
        self._comparison.add_inputs(chunk, inputs)
        try:
            self._core.infer(inputs, chunk.base, chunk.noise, chunk.observed_ns)
        except (ValueError, RuntimeError) as error:  # The core goes on as after any failure.
            self._comparison.failures[chunk.request["index"]] = " ".join(str(error).split())
            return
        self._comparison.add_chunk(chunk, self._core.inferred_actions())


def _with_dtype(ticks: NDArray[np.void], dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """Returns the ticks as this version of the core has them; what it adds is 0."""
    if ticks.dtype == dtype:
        return ticks
    converted = np.zeros(len(ticks), dtype)
    for name in dtype.names or ():
        if name in (ticks.dtype.names or ()):
            converted[name] = ticks[name]
    return converted
