"""Runs an episode that was recorded on simulated time again, through the same control loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..control.policy_source import HoldSource, PolicySource
from ..control.session import make_loop
from .comparison import LOCKSTEP_OUTPUTS, EpisodeComparison
from .recorded import RecordedReplay


def replay_lockstep(
    recorded: RecordedReplay, source: PolicySource | HoldSource, comparison: EpisodeComparison
) -> None:
    """Runs the episode with the recorded observations, and compares every tick."""
    loop = make_loop(source, recorded.header["loop"])
    loop.start(np.array(recorded.start["command"], np.float32))
    try:
        runner = _LockstepRunner(recorded, source, loop, comparison)
        for ticks in recorded.ticks():
            replayed = runner.run(ticks)
            count = len(replayed)
            times_s = ticks["timestamp_s"]
            comparison.add_ticks(ticks[:count], replayed, times_s[:count], LOCKSTEP_OUTPUTS)
            if count < len(ticks):
                comparison.end_early(float(times_s[count]), "asks for a chunk that is not recorded")
                return
    finally:
        loop.stop()


class _LockstepRunner:
    def __init__(
        self,
        recorded: RecordedReplay,
        source: PolicySource | HoldSource,
        loop: Any,
        comparison: EpisodeComparison,
    ) -> None:
        self._recorded = recorded
        self._source = source
        self._loop = loop
        self._comparison = comparison
        self._next_index = 0

    def run(self, ticks: NDArray[np.void]) -> NDArray[np.void]:
        """Returns as many ticks, or fewer if there is no observation for a chunk."""
        replayed = ticks.copy()
        for i in range(len(ticks)):
            is_needed = self._loop.needs_observation()
            if is_needed and self._next_index not in self._recorded.requests:
                return replayed[:i]
            if is_needed:
                self._submit()
            command, flags = self._loop.tick()
            row = replayed[i : i + 1]
            row["requested"], row["command"], row["flags"] = is_needed, command, flags
        return replayed

    def _submit(self) -> None:
        chunk = self._recorded.chunk(self._next_index)
        self._next_index += 1
        if isinstance(self._source, HoldSource):
            self._loop.submit_chunk(chunk.rows)
            return
        inputs = self._source.encode(chunk.observation)
        self._comparison.add_inputs(chunk, inputs)
        self._loop.submit(inputs, chunk.base, chunk.noise)
