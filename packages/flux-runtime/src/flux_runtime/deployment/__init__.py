"""Checks that a robot is the one of the training: at rest, and in the first second of motion.

`facts` is what the bundle says of its training set, `observed` what the robot shows. `judge`
compares the two; it needs no robot. `MotionWatch` and `ColourWatch` go on during the first episode.
"""

from .checks import NAMES, Judged, judge
from .colour_watch import ColourWatch
from .facts import DeploymentFacts
from .finding import Finding
from .motion_watch import MotionWatch
from .observed import Look, Observed
from .report import DeploymentReport, check_accepted

__all__ = [
    "NAMES",
    "ColourWatch",
    "DeploymentFacts",
    "DeploymentReport",
    "Finding",
    "Judged",
    "Look",
    "MotionWatch",
    "Observed",
    "check_accepted",
    "judge",
]
