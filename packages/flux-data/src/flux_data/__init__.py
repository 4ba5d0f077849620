"""LeRobot data: reading, windows, mixtures, scripted demonstrations."""

__version__ = "2026.11.0"
