"""LeRobot datasets on disk: reading, and writing an episode at a time."""
