"""The description of the arm for training and inference."""

import math

from flux_core.robots import RobotSpec

SPEC = RobotSpec(
    name="my-arm",
    joint_names=("shoulder", "elbow", "wrist"),
    lower=(-math.pi, -2.5, -2.5),
    upper=(math.pi, 2.5, 2.5),
    max_velocity=(2.0, 3.0, 4.0),  # rad/s
    units=("rad", "rad", "rad"),
    cameras=("top",),
    control_hz=20.0,
)
