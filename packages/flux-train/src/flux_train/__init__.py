"""Trains pi0 and pi0.5 policies from LeRobot data."""

__version__ = "2026.11.0"
