"""Starts the driver host in an interpreter, whose environment may be another than this one's."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import flux_driver
from flux_core.errors import MissingDependencyError, RobotError

OLDEST = (3, 8)
OPTION = "--driver-python"
_OF_THIS_INTERPRETER = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP", "PYTHONUSERBASE")
_OF_THIS_ENVIRONMENT = ("VIRTUAL_ENV", "VIRTUAL_ENV_PROMPT", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")


def interpreter_path(python: str | os.PathLike[str] | None) -> str:
    """Returns the interpreter to start: an absolute path.

    Args:
        python: a path, a command on PATH, or None for this interpreter.

    Raises:
        RobotError: there is no such program, or it cannot be executed.
    """
    if python is None:
        return sys.executable
    text = os.fspath(python)
    found = shutil.which(text) if os.sep not in text else text
    path = Path(found or text)
    expected = f"{OPTION} {text}: expected a Python of at least {version_text(OLDEST)}"
    if not path.exists():
        raise RobotError(f"{expected}, got no such file. Name the interpreter of the driver")
    if path.is_dir() or not os.access(path, os.X_OK):
        kind = "a folder" if path.is_dir() else "a file that is not executable"
        raise RobotError(f"{expected}, got {kind}. Name the interpreter of the driver")
    return str(path.absolute())  # not resolved: a virtual environment's interpreter is a link


def version_text(version: tuple[int, ...]) -> str:
    """'3.8'."""
    return ".".join(map(str, version))


def start_host(
    interpreter: str, target: str, max_retries: int
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts the driver host for `target`; returns its process and this end of its socket.

    The host is in a session of its own, so that a terminal's signals do not reach it. What the
    driver prints goes to this process's standard error, so that it never mixes with results.

    Raises:
        RobotError: the interpreter cannot be started.
        MissingDependencyError: the library that the driver host loads is not installed.
    """
    main = Path(flux_driver.__file__).with_name("__main__.py")
    try:
        library = flux_driver.library_path()
    except flux_driver.DriverMemoryError as error:
        raise MissingDependencyError(str(error)) from error
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    arguments = (theirs.fileno(), os.getpid(), target, library, max_retries)
    with theirs:
        try:
            process = subprocess.Popen(
                [interpreter, str(main), *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=_environment(interpreter),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            raise RobotError(
                f"{OPTION} {interpreter}: expected a Python of at least {version_text(OLDEST)}, "
                f"got a file that cannot be started ({error.strerror}). Name the interpreter of "
                f"the driver"
            ) from error
    return process, ours


def _environment(interpreter: str) -> dict[str, str]:
    """Returns the variables of the host: another interpreter gets none that belong to this one."""
    if interpreter == sys.executable:
        return dict(os.environ)
    others = {*_OF_THIS_INTERPRETER, *_OF_THIS_ENVIRONMENT}
    kept = {name: value for name, value in os.environ.items() if name not in others}
    own = os.path.dirname(sys.executable)
    paths = kept.get("PATH", os.defpath).split(os.pathsep)
    if sys.prefix != sys.base_prefix:
        paths = [path for path in paths if path != own]
    return {**kept, "PATH": os.pathsep.join(paths)}
