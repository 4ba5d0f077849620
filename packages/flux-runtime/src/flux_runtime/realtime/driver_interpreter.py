"""Starts the driver host in an interpreter, whose environment may be another than this one's."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import flux_driver
from flux_core.errors import MissingDependencyError, RobotError

from ..robots.interpreter import OPTION, driver_environment

OLDEST = (3, 8)


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
    interpreter: str, target: str, arguments: Mapping[str, object], max_retries: int
) -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Starts the driver host for `target`; returns its process and this end of its socket.

    `arguments` of the driver's class, plain data, go through a file that has no name: they may be
    longer than a command line, and other users can read those. The host is in a session of its own,
    so that a terminal's signals do not reach it. What the driver prints goes to this process's
    standard error, so that it never mixes with results.

    Raises:
        RobotError: the interpreter cannot be started, or the arguments are not plain data.
        MissingDependencyError: the library that the driver host loads is not installed.
    """
    main = Path(flux_driver.__file__).with_name("__main__.py")
    try:
        library = flux_driver.library_path()
    except flux_driver.DriverMemoryError as error:
        raise MissingDependencyError(str(error)) from error
    try:
        settings = json.dumps({"arguments": dict(arguments)})
    except (TypeError, ValueError) as error:
        raise RobotError(f"{target}: expected plain data for its class, got {error}") from error
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, tempfile.TemporaryFile("w+") as file:
        file.write(settings)
        file.seek(0)
        passed = (theirs.fileno(), os.getpid(), target, library, max_retries, file.fileno())
        try:
            process = subprocess.Popen(
                [interpreter, str(main), *map(str, passed)],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=driver_environment(interpreter),
                pass_fds=[theirs.fileno(), file.fileno()],
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
