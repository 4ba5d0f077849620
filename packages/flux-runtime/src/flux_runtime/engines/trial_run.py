"""Runs a policy once in a process of its own, where a crash of the engine's library does no harm.

OpenVINO 2026.4 divides by zero while it compiles bfloat16 for AMX on some virtual machines. In the
robot's process that would be the end of it, without a word.
"""

from __future__ import annotations

import functools
import json
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from flux_core.errors import MissingDependencyError

TIMEOUT_S = 1800.0
"""Compiling at full size takes minutes."""


def require_survival(engine: str, arguments: Mapping[str, Any]) -> None:
    """Opens `_core.FlowPolicy(**arguments)` and infers once, in a child process.

    An error that is not a crash is left to whoever opens the policy here and can name it.

    Raises:
        MissingDependencyError: the child was ended by a signal, or did not end.
    """
    if problem := _problem((sys.executable, "-P", "-m", __name__, json.dumps(arguments))):
        raise MissingDependencyError(f"engine {engine}: {problem}. Take another engine.")


@functools.lru_cache(maxsize=8)
def _problem(command: tuple[str, ...]) -> str:
    try:
        code = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=TIMEOUT_S,
        ).returncode
    except subprocess.TimeoutExpired:
        return f"its library did not finish a trial run within {TIMEOUT_S:.0f} s"
    if code == -signal.SIGKILL:
        return "a trial run was killed, probably because memory is too small"
    if code < 0:
        number = signal.Signals(-code).name
        return f"its library crashes on this processor ({number} in a trial run)"
    return ""


def main() -> None:
    """The child: the arguments of the policy are the command's, as JSON."""
    from .. import _core

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    policy = _core.FlowPolicy(**json.loads(sys.argv[1]))
    inputs = {name: np.zeros(shape, dtype) for name, (dtype, shape) in policy.inputs.items()}
    policy.infer(inputs, np.zeros(policy.action_shape, np.float32))


if __name__ == "__main__":
    main()
