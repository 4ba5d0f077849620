"""`aloha-sim`: the simulated two-armed ALOHA, with gym-aloha's two tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .simulation import RobotInSimulation

if TYPE_CHECKING:
    from flux_core.sim import AlohaArms


class AlohaSimRobot(RobotInSimulation):
    """Hands a cube from the right arm to the left one."""

    name = "aloha-sim"
    task = "transfer the cube"
    success_stage = "transferred"
    end_state = "held_by_left_only"

    def _make_simulation(self) -> AlohaArms:
        from flux_core.sim import AlohaSim

        return AlohaSim()


class AlohaInsertionRobot(AlohaSimRobot):
    """Inserts the peg that the right arm holds into the socket that the left arm holds."""

    task = "insert the peg into the socket"
    success_stage = "inserted"
    end_state = "inserted_and_held"

    def _make_simulation(self) -> AlohaArms:
        from flux_core.sim import AlohaInsertionSim

        return AlohaInsertionSim()
