"""The exception tree.

    FluxError                   a user's mistake or a broken input; one clear line
    |-- UsageError              a command line that is not valid (exit code 2)
    |-- ConfigError             a config file, key, type or value
    |-- DataError               a dataset, an episode, a frame, a statistic
    |-- CheckpointError         weights or a training checkpoint
    |-- BundleError             an exported bundle
    |-- ExportError             an export that could not be verified
    |-- RobotError              a robot, its driver or its description
    `-- MissingDependencyError  an optional package that is not installed

Every message says where, what was expected, what was found and what to do. Our own bugs raise
AssertionError or another ordinary Python exception, never a FluxError.
"""

from __future__ import annotations


class FluxError(Exception):
    """A mistake that the user can fix, reported in one line."""

    @classmethod
    def expected(cls, where: str, expected: object, got: object, hint: str = "") -> FluxError:
        """Builds `where: expected X, got Y. hint`."""
        message = f"{where}: expected {expected}, got {got}"
        return cls(f"{message}. {hint}" if hint else message)


class UsageError(FluxError):
    """The command line is not valid."""


class ConfigError(FluxError):
    """A config file, key, type or value is wrong."""


class DataError(FluxError):
    """A dataset, episode, frame or statistic is wrong."""


class CheckpointError(FluxError):
    """Weights or a training checkpoint do not fit."""


class BundleError(FluxError):
    """A bundle is damaged, unknown or does not fit the robot."""


class ExportError(FluxError):
    """An exported graph does not reproduce its reference."""


class RobotError(FluxError):
    """A robot, its driver or its description is wrong."""


class MissingDependencyError(FluxError):
    """An optional package is needed and not installed."""
