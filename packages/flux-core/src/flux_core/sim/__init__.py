"""Simulated robots. Heavy imports happen only when a simulator is created."""

from __future__ import annotations

from .aloha import START_ARM_RAD, AlohaSim, sample_cube_position
from .aloha_arms import AlohaArms
from .aloha_insertion import AlohaInsertionSim, sample_insertion_positions
from .libero import IMAGE_SIZE as LIBERO_IMAGE_SIZE
from .libero import MAX_STEPS as LIBERO_MAX_STEPS
from .libero import LiberoSim, LiberoTask, libero_tasks
from .mujoco_import import import_mujoco
from .task_choice import choose_tasks

__all__ = [
    "LIBERO_IMAGE_SIZE",
    "LIBERO_MAX_STEPS",
    "START_ARM_RAD",
    "AlohaArms",
    "AlohaInsertionSim",
    "AlohaSim",
    "LiberoSim",
    "LiberoTask",
    "choose_tasks",
    "import_mujoco",
    "libero_tasks",
    "sample_cube_position",
    "sample_insertion_positions",
]
