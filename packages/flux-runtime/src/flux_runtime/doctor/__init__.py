"""`flux-runtime doctor`: what this machine can run, and whether a robot fits its bundle.

With `--remote`, also how fast a policy server answers, and what that needs. Every check says what
was found, and how to fix it.
"""

from .check import Check, format_checks
from .machine import diagnose
from .robot import diagnose_robot
from .server import diagnose_server

__all__ = ["Check", "diagnose", "diagnose_robot", "diagnose_server", "format_checks"]
