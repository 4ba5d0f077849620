"""`flux-runtime doctor`: what this machine can run, and whether a robot fits its bundle.

Every check says what was found, and how to mend it.
"""

from .check import Check, format_checks
from .machine import diagnose
from .robot import diagnose_robot

__all__ = ["Check", "diagnose", "diagnose_robot", "format_checks"]
