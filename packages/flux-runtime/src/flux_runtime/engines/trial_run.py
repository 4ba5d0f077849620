"""Runs a policy once in a separate process, where a crash of the engine's library does no harm.

On some virtual machines OpenVINO 2026.4 divides by zero while it compiles bfloat16 for AMX. That
would end the robot's process without any message.
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
"""Compiling a full-size network takes minutes."""


def require_survival(engine: str, arguments: Mapping[str, Any]) -> None:
    """Opens `_core.FlowPolicy(**arguments)` and infers once, in a child process.

    Ordinary errors are ignored here: opening the policy in this process reports them properly.

    Raises:
        MissingDependencyError: a signal ended the child process, or it ran into the timeout.
    """
    if problem := _problem((sys.executable, "-P", "-m", __name__, json.dumps(arguments))):
        raise MissingDependencyError(f"engine {engine}: {problem}. Use another engine.")


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
        return "a trial run was killed, probably because memory ran out"
    if code < 0:
        number = signal.Signals(-code).name
        return f"its library crashes on this CPU ({number} in a trial run)"
    return ""


def main() -> None:
    """Runs in the child process; the command's only argument is the policy's arguments as JSON."""
    from .. import _core

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    policy = _core.FlowPolicy(**json.loads(sys.argv[1]))
    inputs = {name: np.zeros(shape, dtype) for name, (dtype, shape) in policy.inputs.items()}
    policy.infer(inputs, np.zeros(policy.action_shape, np.float32))


if __name__ == "__main__":
    main()
