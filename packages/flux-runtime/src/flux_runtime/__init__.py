"""Runs a bundle on a robot: engines, control loop, safety, recording and report.

Importing this package loads nothing heavy: the C++ core, the simulators and the plotting
libraries are imported where they are used.
"""

__version__ = "2026.11.0"
__all__ = ["__version__"]
