"""`libero`: the simulated Panda of the LIBERO benchmark, with one of its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .simulation import RobotInSimulation

if TYPE_CHECKING:
    from flux_core.sim import LiberoSim, LiberoTask


class LiberoRobot(RobotInSimulation):
    """The Panda under OSC_POSE; seed N is the benchmark's start state N."""

    name = "libero"
    success_stage = end_state = "success"

    def __init__(self, task: LiberoTask) -> None:
        super().__init__()
        self.task = task.language
        self._task = task

    def _make_simulation(self) -> LiberoSim:
        from flux_core.sim import LiberoSim

        return LiberoSim(self._task)
