"""Simulated robots. Nothing heavy is imported before a simulator is made."""

from __future__ import annotations

from .aloha import AlohaSim
from .mujoco_import import import_mujoco

__all__ = ["AlohaSim", "import_mujoco"]
