"""Which Python runs a robot's driver, and in which environment."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from flux_core.errors import MissingDependencyError

from .shipped import Transport

OPTION = "--driver-python"
SYSTEM_PYTHON = "/usr/bin/python3"
_PROBE_TIMEOUT_S = 30.0
_OF_THIS_INTERPRETER = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE")
_OF_THIS_ENVIRONMENT = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
_ROS_PREFIXES = ("CMAKE_PREFIX_PATH", "AMENT_PREFIX_PATH")
"""What `source setup.bash` of a ROS workspace adds its folder to."""


def driver_environment(interpreter: str) -> dict[str, str]:
    """Returns the variables of a driver's process: another interpreter gets none that belong to
    this one, except the folders of sourced ROS workspaces in PYTHONPATH."""
    if interpreter == sys.executable:
        return dict(os.environ)
    others = {*_OF_THIS_INTERPRETER, *_OF_THIS_ENVIRONMENT}
    kept = {name: value for name, value in os.environ.items() if name not in others}
    own = os.path.dirname(sys.executable)
    paths = kept.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix != sys.base_prefix:
        paths = [path for path in paths if path != own]
    ros = os.pathsep.join(_folders_of_ros())
    return {**kept, "PATH": os.pathsep.join(paths), **({"PYTHONPATH": ros} if ros else {})}


def _folders_of_ros() -> Iterator[str]:
    prefixes = [
        Path(folder)
        for name in _ROS_PREFIXES
        for folder in os.environ.get(name, "").split(os.pathsep)
        if folder
    ]
    for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep):
        if folder and any(Path(folder).is_relative_to(prefix) for prefix in prefixes):
            yield folder


def python_with(
    robot: str, transport: Transport, module_of: str, python: Path | None
) -> tuple[Path | None, str]:
    """Returns the Python for a driver, None for this one, and a line that says why.

    Args:
        robot: its name, for messages.
        transport: what the driver needs.
        module_of: what the module belongs to, such as 'ros1'.
        python: the one that the user named; it is not asked whether it has the module, because it
            may be a script that sources an environment first.

    Raises:
        MissingDependencyError: no Python that this looks at has the module.
    """
    module = transport.module
    if python is not None:
        return python, f"driver: {transport.target} over {module_of}, in {python} ({OPTION})"
    begin = f"driver: {transport.target} over {module_of}, in"
    if has_module(sys.executable, module):
        return None, f"{begin} this Python, which has {module}"
    looked_at: Sequence[str] = [f"this Python ({sys.executable})"]
    if transport.system_python and not _is_this(SYSTEM_PYTHON):
        if has_module(SYSTEM_PYTHON, module):
            line = f"{begin} {SYSTEM_PYTHON}, which has {module}; this Python does not"
            return Path(SYSTEM_PYTHON), line
        looked_at = [*looked_at, SYSTEM_PYTHON]
    raise MissingDependencyError(
        f"{robot}: expected a Python with {module}, got {' and '.join(looked_at)} without it. "
        f"{transport.remedy}, or name the Python that has it with {OPTION}"
    )


def has_module(interpreter: str, module: str) -> bool:
    """Whether an interpreter can import a module, in the environment that a driver would have."""
    if interpreter == sys.executable and importlib.util.find_spec(module) is None:
        return False
    try:
        result = subprocess.run(
            [interpreter, "-c", f"import {module}"],
            env=driver_environment(interpreter),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return result.returncode == 0


def _is_this(interpreter: str) -> bool:
    try:
        return os.path.samefile(interpreter, sys.executable)
    except OSError:
        return True  # there is none
