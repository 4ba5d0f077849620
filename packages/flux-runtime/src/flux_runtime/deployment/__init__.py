"""Checks that a robot is the one of the training: at rest, and in the first second of motion.

`facts` is what the bundle says of its training set, `observed` what the robot shows. `judge`
compares the two; it needs no robot. `MotionWatch` and `ColourWatch` go on during the first episode.
"""

from .checking import check_deployment
from .checks import NAMES, Judged, judge
from .colour_watch import ColourWatch
from .facts import DeploymentFacts
from .finding import Finding
from .first_motions import SLOW_START_S, SLOW_START_SPEED, FirstMotions
from .motion_watch import MotionWatch
from .observed import LOOK_S, CameraLook, Look, Observed, look_at
from .report import DeploymentReport, check_accepted

__all__ = [
    "LOOK_S",
    "NAMES",
    "SLOW_START_S",
    "SLOW_START_SPEED",
    "CameraLook",
    "ColourWatch",
    "DeploymentFacts",
    "DeploymentReport",
    "Finding",
    "FirstMotions",
    "Judged",
    "Look",
    "MotionWatch",
    "Observed",
    "check_accepted",
    "check_deployment",
    "judge",
    "look_at",
]
