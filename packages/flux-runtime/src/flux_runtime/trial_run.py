"""Runs a policy once in a process of its own, where a crash of the engine's library does no harm.

OpenVINO 2026.4 divides by zero while it compiles bfloat16 for AMX on some virtual machines. In the
robot's process that would be the end of it, without a word.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from flux_core.errors import MissingDependencyError


def require_survival(engine: str, arguments: Mapping[str, Any]) -> None:
    """Opens `_core.FlowPolicy(**arguments)` and infers once, in a child process.

    An error that is not a crash is left to whoever opens the policy here and can name it.

    Raises:
        MissingDependencyError: the child was ended by a signal.
    """
    command = [sys.executable, "-m", __name__, json.dumps(arguments)]
    code = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, check=False
    ).returncode
    if code < 0:
        raise MissingDependencyError(
            f"engine {engine}: its library crashes on this processor "
            f"({signal.Signals(-code).name} in a trial run). Take another engine."
        )


def main() -> None:
    """The child: the arguments of the policy are the command's, as JSON."""
    from . import _core

    policy = _core.FlowPolicy(**json.loads(sys.argv[1]))
    inputs = {name: np.zeros(shape, dtype) for name, (dtype, shape) in policy.inputs.items()}
    policy.infer(inputs, np.zeros(policy.action_shape, np.float32))


if __name__ == "__main__":
    main()
