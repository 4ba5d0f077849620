"""Simulated robots. Nothing heavy is imported before a simulator is made."""

from __future__ import annotations

from .aloha import AlohaSim
from .aloha_insertion import AlohaInsertionSim
from .libero import LiberoSim, libero_tasks
from .mujoco_import import import_mujoco

__all__ = ["AlohaInsertionSim", "AlohaSim", "LiberoSim", "import_mujoco", "libero_tasks"]
