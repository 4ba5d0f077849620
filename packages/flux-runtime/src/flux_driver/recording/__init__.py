"""Hands what a robot's sensors deliver to a process that records it."""

from .frame_sender import FrameSender

__all__ = ["FrameSender"]
